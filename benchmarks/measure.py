"""Time the arms of a cell in turn, A B C A B C, with a calibration before and after each round.

Refuses to know what the figures will be compared for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.calibrate import Calibration, calibrate
from benchmarks.scenario import Cell, Work
from benchmarks.stage import Stage
from benchmarks.workload import METRICS, Absent, Run


@dataclass(frozen=True)
class Measured:
    """`runs[arm][round]`: equal rounds were neighbours in time. `skipped[arm]` says why."""

    cell: Cell
    runs: dict[str, list[Run]]
    calibrations: list[tuple[Calibration, Calibration]] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)


def measure(cell: Cell, stage: Stage, rounds: int, say: Callable[[str], None]) -> Measured:
    """Run every arm that is there `rounds` times, and once before, which does not count.

    Without the arm that is judged nothing is run. Raises WrongAnswer, ServerFailed.
    """
    works, skipped = _opened(cell, stage, say)
    measured = Measured(cell, {name: [] for name in works}, skipped=skipped)
    if cell.arms[0].name not in works:
        return Measured(cell, {}, skipped=skipped)
    # Round 0 warms caches, adapters and connections.
    for number in range(rounds + 1):
        before = calibrate()
        runs = {}
        for name, work in works.items():
            runs[name] = run = work(number)
            say(f"{cell.label}: {name} {_shown(cell, run)}, {_round(number, rounds)}")
        after = calibrate()
        if number:
            measured.calibrations.append((before, after))
            for name, run in runs.items():
                measured.runs[name].append(run)
    return measured


def _opened(
    cell: Cell, stage: Stage, say: Callable[[str], None]
) -> tuple[dict[str, Work], dict[str, str]]:
    works, skipped = dict[str, Work](), dict[str, str]()
    for arm in cell.arms:
        say(f"{cell.label}: making {arm.name} ready")
        try:
            works[arm.name] = arm.open(stage)
        except Absent as absent:
            skipped[arm.name] = str(absent)
            if arm is cell.arms[0]:
                break
    return works, skipped


def _shown(cell: Cell, run: Run) -> str:
    metric = cell.judged[0].metric
    kind = METRICS[metric]
    return f"{run.figures[metric] * kind.scale:.{kind.digits}f} {kind.title}"


def _round(number: int, rounds: int) -> str:
    return f"round {number} of {rounds}" if number else "warm round"
