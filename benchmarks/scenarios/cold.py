"""An adapter's first use: from the disk to its first token, and what the others notice."""

from benchmarks.cold import Probed
from benchmarks.scenario import Cell, Judged, Scenario, Target

SCENARIO = Scenario(
    name="cold",
    says="A cold adapter on disk to its first token, over a warm one, beside 8 busy rows",
    cells=[
        Cell(
            label="first use",
            arms=(Probed(cold=True), Probed(cold=False)),
            judged=(
                Judged("first_token_s", Target(at_most=0.030), how="minus"),
                Judged("between_tokens_p95_s", Target(at_most=1.2)),
            ),
        )
    ],
)
