"""What a method made of its rows, and how it tells of its progress.

Refuses to know methods, and how versions are published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rootstock_adapters.spec import PartSpec
from rootstock_registry import NewPart
from safetensors.torch import save
from torch import Tensor

from rootstock_trainer.base import Base
from rootstock_trainer.checkpoints import Checkpoints
from rootstock_trainer.loop import Step
from rootstock_trainer.progress import Progress, Report

if TYPE_CHECKING:  # it needs transformers, which not every method does
    from rootstock_trainer.together import Member


class Made(NamedTuple):
    """One version to be: `suffix` tells it from others of the same job."""

    suffix: str
    parts: Sequence[NewPart]
    evaluation: Mapping[str, float]


class Outcome(NamedTuple):
    """The versions of one job, the job's own first, and what their rows were."""

    made: Sequence[Made]
    dataset_digest: str


class Place(NamedTuple):
    """Where a run may keep things: the home for all jobs, and the checkpoints of this one; and its
    place among the runs that share its base, where there are others."""

    home: Path
    checkpoints: Checkpoints | None = None
    member: Member | None = None


class Telling:
    """Reports stages with every note so far: a row shows the last report only."""

    def __init__(self, report: Report, notes: Sequence[str] = ()) -> None:
        self._report, self.notes = report, tuple(notes)

    def note(self, text: str) -> None:
        self.notes = (*self.notes, text)

    def __call__(
        self, stage: str, done: int = 0, total: int = 0, loss: float | None = None
    ) -> None:
        self._report(Progress(stage, done, total, loss, self.notes))

    def step(self, step: Step) -> None:
        self._report(
            Progress(
                "training", step.done, step.total, step.loss, self.notes, valid_loss=step.valid_loss
            )
        )


def new_part(spec: PartSpec, tensors: dict[str, Tensor]) -> NewPart:
    return NewPart(spec, save(tensors))


def sizes(trained: int, base: Base) -> dict[str, float]:
    """What every version says of itself: how many numbers were trained, and their share."""
    share = trained / base.parameter_count()
    return {"trained_parameters": float(trained), "base_share": share}


def artifact_bytes(parts: Sequence[NewPart]) -> dict[str, float]:
    """What a version takes: its parts' tensors, and their configs, which hold a prompt's words."""
    total = sum(len(part.data) + len(part.spec.model_dump_json().encode()) for part in parts)
    return {"artifact_bytes": float(total)}


def row_counts(train: Sequence[int], held_out: Sequence[int]) -> dict[str, float]:
    return {"train_rows": float(len(train)), "held_out_rows": float(len(held_out))}
