"""A worker's hold on its job: the heartbeat, what it tells, and when it has to stop.

Refuses to know what the job does; whoever works reports between two steps.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from rootstock_registry import Job, Registry
from rootstock_registry.errors import Conflict

from rootstock_trainer.courtesy import Courtesy
from rootstock_trainer.progress import Progress

LEASE_S = 60.0  # longer than a busy machine needs to import torch
HEARTBEAT_S = 1.0
MAX_METRICS = 100  # events of one run's steps

Why = Literal["pause", "stop"]


class Interrupted(Exception):
    """The job is to be put down here, and can be taken up again: its tenant asked for a `pause`,
    or its worker was told to `stop`."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why = why


class Lease:
    """Holds a job, and keeps its row's progress fresh, while the work goes on in another thread."""

    def __init__(self, registry: Registry, job: Job, courtesy: Courtesy | None = None) -> None:
        self._registry, self._job, self._courtesy = registry, job, courtesy
        self._progress = Progress("starting")
        # What earlier claims have used, so that a limit is one on the job.
        self._before = Progress.from_row(job.progress).seconds
        self._begun = time.monotonic()
        self._results: tuple[str, ...] = ()
        self._ended = threading.Event()
        self._lost: Conflict | None = None
        self._why: Why | None = None
        self._announced = False  # whether who trains had the time for a checkpoint since
        self._heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Lease:
        self._renew()
        self._heartbeat.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._heartbeat.join()

    def stop(self) -> None:
        """Put the job down at the next report; safe in a signal handler."""
        self._why = "stop"

    @property
    def interrupted(self) -> bool:
        """Whether the next report raises, so that now is the time for a checkpoint."""
        self._announced = self._why is not None
        return self._announced or self._lost is not None

    def report(self, progress: Progress) -> None:
        """Raises Conflict once the job was taken over, Interrupted where it is to be put down: in
        training once `interrupted` has said so, or two reports have passed."""
        if self._lost is not None:
            raise self._lost
        new_stage = progress.stage != self._progress.stage
        self._progress = progress
        if new_stage:  # a short stage would otherwise pass between two heartbeats, unseen
            self._tell_stage(progress)
        if progress.stage == "training":
            self._tell_metrics(progress)
        if self._why is not None and (self._announced or progress.stage != "training"):
            raise Interrupted(self._why)
        # What came behind the step's last look waits for one step more, and its checkpoint.
        self._announced = self._why is not None
        if self._courtesy is not None:
            self._courtesy.give_way()

    def checkpointed(self, step: int, folder: Path, metrics: Mapping[str, float]) -> None:
        """Write a checkpoint into the job's story. Raises Conflict as `report` does."""
        self._registry.checkpoint_job(self._job, step, folder.name, metrics)

    def results(self, files: Sequence[str]) -> None:
        """Name the files that hold what the run looked like."""
        self._results = tuple(files)
        self._renew()

    def _tell_stage(self, progress: Progress) -> None:
        self._renew()
        told = f"Stage: {progress.stage}"
        self._registry.tell_job(self._job, told, {"stage": progress.stage})

    def _tell_metrics(self, progress: Progress) -> None:
        """Of a long run every hundredth part, and every evaluation."""
        step, total = progress.done, progress.total
        if progress.loss is None or not math.isfinite(progress.loss) or step <= 0:
            return
        rare = max(1, math.ceil(total / MAX_METRICS))
        if step % rare and step != total and progress.valid_loss is None:
            return
        data: dict[str, Any] = {"step": step, "total_steps": total, "train_loss": progress.loss}
        message = f"Step {step}/{total}: training loss={progress.loss:.4f}"
        if progress.valid_loss is not None:
            data["valid_loss"] = progress.valid_loss
            message += f", validation loss={progress.valid_loss:.4f}"
        self._registry.tell_job(self._job, message, data)

    def _renew(self) -> None:
        used = self._before + time.monotonic() - self._begun
        row = replace(self._progress, seconds=round(used, 1), results=self._results).to_row()
        now = self._registry.renew_job(self._job, LEASE_S, row)
        if self._why is None and now.requested == "pause":
            self._why = "pause"

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            try:
                self._renew()
            except Conflict as error:
                self._lost = error
                return
