"""Eight-bit weights under adapters in higher precision, beside the same server without them."""

from benchmarks.arms import Ours
from benchmarks.scenario import Cell, Judged, Scenario, Target
from benchmarks.stage import Server
from benchmarks.workload import Mode

INT8 = Server(dtype="int8")


def _cell(label: str, load: tuple[Mode, int], target: Target, best: float) -> Cell:
    mode, count = load
    arms = (Ours(mode, count, INT8, name="int8"), Ours(mode, count, name="bfloat16"))
    known = {"S": {"llama.cpp q8_0": best}}
    judged = Judged("tokens_per_s", target, known=known, against=())
    return Cell(label, arms, (judged,))


SCENARIO = Scenario(
    name="int8",
    says="An int8 base: alone, at 16, and with all-different adapters at 16",
    cells=[
        _cell("base alone", ("base", 1), Target(at_least=0.8), 219),
        _cell("base at 16", ("base", 16), Target(at_least=2), 412),
        _cell("all different at 16", ("mixed", 16), Target(at_least=4), 139),
    ],
)
