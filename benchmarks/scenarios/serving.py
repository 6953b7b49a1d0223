"""The whole table: one, eight and sixteen callers; the base, one adapter, all of them different."""

from benchmarks.arms import Ours, Peft, Transformers
from benchmarks.scenario import Cell, Judged, Scenario, Target
from benchmarks.workload import Mode

LABELS: dict[Mode, str] = {"base": "base", "same": "one adapter", "mixed": "all different"}
ASKED = {("mixed", 16): Target(at_least=3, aim=6)}


def _cell(mode: Mode, count: int) -> Cell:
    whole = (Transformers(count),) if mode == "base" else ()
    return Cell(
        label=f"{LABELS[mode]} at {count}",
        arms=(Ours(mode, count), *whole, Peft(mode, count)),
        judged=(Judged("tokens_per_s", ASKED.get((mode, count), Target())),),
        load=(mode, count),
    )


SCENARIO = Scenario(
    name="serving",
    says="The base, one adapter, all different; at 1, 8 and 16 concurrent",
    cells=[_cell(mode, count) for mode in LABELS for count in (1, 8, 16)],
)
