"""Time every system of a cell in turn, A B C A B C, with a calibration kernel around each run.

Refuses to know what the figures will be compared for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from benchmarks.workload import Ask, Mode, Run, Settings, System, WrongAnswer, asks

KERNEL_SIZE, KERNEL_REPEATS = 1024, 40


@dataclass(frozen=True)
class Timed:
    """One run, and the seconds that the same fixed work took just before and just after it."""

    run: Run
    calibration_s: tuple[float, float]


@dataclass(frozen=True)
class Cell:
    """One mode at one concurrency. `timed[system][round]`: equal rounds were neighbours in time."""

    mode: Mode
    concurrency: int
    timed: dict[str, list[Timed]]


def cells(settings: Settings) -> list[tuple[Mode, int]]:
    return [(mode, count) for mode in settings.modes for count in settings.concurrencies]


def systems_of(systems: Sequence[System], mode: Mode) -> list[System]:
    return [system for system in systems if mode in system.modes]


def runs(settings: Settings, systems: Sequence[System]) -> int:
    """How many runs `measure` will make over all cells, warm ones included."""
    per_round = sum(len(systems_of(systems, mode)) for mode, _ in cells(settings))
    return (settings.rounds + 1) * per_round


def measure(
    settings: Settings, systems: Sequence[System], done: Callable[[str], None]
) -> Iterator[Cell]:
    """Each cell as it is finished; `done` is told of every run. Raises WrongAnswer."""
    for mode, concurrency in cells(settings):
        members = systems_of(systems, mode)
        cell = Cell(mode, concurrency, {system.name: [] for system in members})
        # Round 0 warms caches, adapters and connections; it is not counted.
        for number in range(settings.rounds + 1):
            work = asks(settings, mode, settings.requests(concurrency), number)
            for system in members:
                before = calibrate()
                run = system.run(work, concurrency)
                timed = Timed(run, (before, calibrate()))
                _check(settings, run, work)
                if number:
                    cell.timed[system.name].append(timed)
                done(f"{mode} at {concurrency}: {system.name} {run.tokens_per_s:.0f} tok/s")
        yield cell


def calibrate() -> float:
    """Seconds of fixed work on all threads: longer means that cores were slower or shared."""
    a = torch.ones(KERNEL_SIZE, KERNEL_SIZE, dtype=torch.bfloat16)
    begun = time.perf_counter()
    for _ in range(KERNEL_REPEATS):
        a @ a
    return time.perf_counter() - begun


def _check(settings: Settings, run: Run, work: Sequence[Ask]) -> None:
    if run.tokens != len(work) * settings.new_tokens:
        raise WrongAnswer(f"{run.tokens} tokens, not {len(work)} times {settings.new_tokens}")
    adapters = len({ask.adapter for ask in work})
    if run.digests is not None and len(run.digests) != adapters:
        raise WrongAnswer(f"{len(run.digests)} versions answered where {adapters} were asked")
