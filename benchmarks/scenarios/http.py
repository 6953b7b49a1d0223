"""What the doors cost: the server over HTTP against its own engine in one process."""

from benchmarks.arms import InProcess, Ours
from benchmarks.scenario import Cell, Judged, Scenario, Target
from benchmarks.workload import MODES, Mode

MODES_SHOWN: tuple[Mode, ...] = ("base", "mixed")

SCENARIO = Scenario(
    name="http",
    says="Served over HTTP, over the engine driven in-process",
    cells=[
        Cell(
            label=f"{MODES[mode]} at 16",
            arms=(Ours(mode, 16, name="over HTTP"), InProcess(mode, 16)),
            judged=(Judged("tokens_per_s", Target(at_least=0.97)),),
            load=(mode, 16),
        )
        for mode in MODES_SHOWN
    ],
)
