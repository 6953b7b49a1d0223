"""One job in the foreground: submitted, run by a worker process, shown as a progress bar.

Refuses to know torch: the process with the bar stays small while the worker trains.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rootstock_registry import Job, Registry, Version

from rootstock_trainer.errors import TrainingFailed
from rootstock_trainer.launch import Worker, claimant, fail
from rootstock_trainer.lease import LEASE_S
from rootstock_trainer.progress import Progress as JobProgress
from rootstock_trainer.spec import TrainSpec

POLL_S = 0.2


def run_foreground(
    home: Path, tenant: str, spec: TrainSpec, console: Console | None = None
) -> Version:
    """Train and return the registered version; progress goes to `console` (default: stderr).

    A sidecar that is quicker to claim the job may run it as well. Raises TrainingFailed with the
    job's message, RegistryError where the job cannot be submitted; an interrupt fails the job.
    """
    registry = Registry(home)
    try:
        job = registry.submit_job(tenant, spec.model_dump(mode="json"))
        ended = follow(registry, home, job, spec, console)
        if ended.version_digest is None:
            raise TrainingFailed(ended.error or f"job {job.id} ended without a version")
        return registry.version(ended.version_digest)
    finally:
        registry.close()


def follow(
    registry: Registry, home: Path, job: Job, spec: TrainSpec, console: Console | None = None
) -> Job:
    """Run a submitted job, or watch who was quicker; its row after its end, however that was."""
    with _Bar(spec, console or Console(stderr=True)) as bar:
        return _run(registry, home, job, bar)


def _run(registry: Registry, home: Path, job: Job, bar: _Bar) -> Job:
    """The job's row after its end, whoever ran it."""
    while True:
        # None while a sidecar has it; should that die, its lease runs out and the job is ours.
        claimed = registry.claim_job(claimant(), LEASE_S, job.id)
        if claimed is not None:
            _work(registry, home, claimed, bar)
        now = registry.job(job.id)
        bar.show(now)
        if now.finished_at is not None:
            return now
        time.sleep(POLL_S)


def _work(registry: Registry, home: Path, job: Job, bar: _Bar) -> None:
    worker = Worker(home, job, {})
    try:
        while worker.running:
            bar.show(registry.job(job.id))
            time.sleep(POLL_S)
    except BaseException:
        fail(registry, job, "interrupted")
        worker.kill()
        raise
    finally:
        worker.close(registry)


class _Bar:
    """A job's row as a bar with its loss, and its notes as lines above the bar."""

    def __init__(self, spec: TrainSpec, console: Console) -> None:
        self._name = f"{spec.method} {spec.name}"
        self._told = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID = self._progress.add_task(self._name, total=None, figures="")

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, job: Job) -> None:
        now = JobProgress.from_row(job.progress)
        for note in now.notes[self._told :]:
            self._progress.console.print(f"{self._name}: {note}", markup=False, highlight=False)
        self._told = max(self._told, len(now.notes))
        figures = f"{now.done}/{now.total}" if now.total else ""
        if now.loss is not None:
            figures += f" loss {now.loss:.3f}"
        stage = job.state if job.finished_at else now.stage
        self._progress.update(
            self._task,
            description=f"{self._name}: {stage}",
            completed=1 if job.finished_at else now.done,
            total=1 if job.finished_at else now.total or None,
            figures=figures,
        )
