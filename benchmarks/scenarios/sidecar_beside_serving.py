"""What a training job costs the server beside it, and what the job gets done meanwhile."""

from benchmarks.beside import Beside
from benchmarks.scenario import Cell, Judged, Scenario, Target

SCENARIO = Scenario(
    name="sidecar-beside-serving",
    says="Serving beside a training job, over serving alone",
    cells=[
        Cell(
            label=f"{concurrency} at a time",
            arms=(Beside(True, concurrency), Beside(False, concurrency)),
            judged=(
                Judged("tokens_per_s", Target(at_least=0.8)),
                # Over what the time that serving leaves idle would allow.
                Judged("job_steps_per_s", Target(at_least=0.5)),
            ),
        )
        for concurrency in (1, 8)
    ],
)
