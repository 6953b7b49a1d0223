"""What sixteen different adapters add to a decode step, against what their bytes must add."""

from benchmarks.arms import Ours
from benchmarks.ceilings import step_ratio
from benchmarks.scenario import Cell, Judged, Scenario, Target

ROWS = 16

SCENARIO = Scenario(
    name="decode-step",
    says="Decode step at 16: base over all different, as a share of R(N) = W/(W+N·a)",
    cells=[
        Cell(
            label="between tokens at 16",
            arms=(
                Ours("base", ROWS, name="base only"),
                Ours("mixed", ROWS, name="all different"),
            ),
            judged=(
                Judged(
                    "between_tokens_s",
                    Target(at_least=0.95),
                    ratio_ceiling=lambda shape: step_ratio(shape, ROWS),
                ),
            ),
        )
    ],
)
