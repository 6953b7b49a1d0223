"""The nouns of a comparison: a scenario has cells, a cell has arms that take turns.

The first arm of a cell is the one that is judged, against each of the others. Refuses to know how
an arm does its work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from benchmarks.stage import Stage
from benchmarks.workload import Mode, Run, Shape

Work = Callable[[int], Run]


class Arm(Protocol):
    """One system doing one kind of work."""

    @property
    def name(self) -> str: ...

    def open(self, stage: Stage) -> Work:
        """What does and times the work of a round; what it stands on is ready afterwards.

        Raises Absent where the system is not to be had. The work raises WrongAnswer.
        """
        ...


@dataclass(frozen=True)
class Target:
    """What is asked of the first arm's figure over (`minus`: less) another arm's.

    `at_least` and `at_most` must hold; `aim` would be better still.
    """

    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None

    @property
    def asks(self) -> bool:
        return self != Target()

    def met_by(self, value: float) -> bool:
        low = -float("inf") if self.at_least is None else self.at_least
        high = float("inf") if self.at_most is None else self.at_most
        return low <= value <= high


@dataclass(frozen=True)
class Judged:
    """A metric of a cell, its target, and what is known of systems that are not run here."""

    metric: str
    target: Target
    how: Literal["over", "minus"] = "over"
    # By shape and system, from runs on two cores of another day: beside what is measured here.
    known: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    # Among the arms: those the target is about; None: all of them.
    against: tuple[str, ...] | None = None
    # From bytes and operations: how high the ratio could be; the target is a share of it.
    ratio_ceiling: Callable[[Shape], float] | None = None


@dataclass(frozen=True)
class Cell:
    """Arms that take turns within each round, and what is read from them."""

    label: str
    arms: tuple[Arm, ...]
    judged: tuple[Judged, ...]
    # Of the first arm, for a ceiling in tokens per second; None: there is none.
    load: tuple[Mode, int] | None = None


@dataclass(frozen=True)
class Scenario:
    """One row of the published table; runs alone."""

    name: str
    says: str  # what is compared, in one sentence
    cells: Sequence[Cell]
