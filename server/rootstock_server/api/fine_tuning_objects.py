"""Jobs, events and checkpoints as OpenAI's objects.

Refuses to know who asks; whoever calls has checked whose they are.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

from rootstock_registry import Job, Registry
from rootstock_registry.errors import RegistryError
from rootstock_registry.records_work import Checkpoint, Event
from rootstock_wire.fine_tuning import (
    CheckpointMetrics,
    FineTuningJob,
    FineTuningJobCheckpoint,
    FineTuningJobEvent,
    Hyperparameters,
    JobError,
    Status,
)
from rootstock_wire.methods import parse_settings, to_message

# What a worker is about before it trains: the rows are being read and checked.
VALIDATING = ("starting", "reading")


def job_object(registry: Registry, job: Job) -> FineTuningJob:
    """One that was submitted by the command line, too: its file is then a path's last part."""
    spec, asked = job.spec, job.spec.get("request", {})
    chosen = spec.get("hyperparameters", {})
    return FineTuningJob(
        id=job.id,
        created_at=int(job.created_at.timestamp()),
        finished_at=int(job.finished_at.timestamp()) if job.finished_at else None,
        model=asked.get("model") or spec.get("base", ""),
        fine_tuned_model=_model(registry, job),
        organization_id=job.tenant,
        status=status_of(job),
        hyperparameters=_hyperparameters(spec.get("method", ""), chosen),
        method=asked.get("method") or to_message(spec.get("method", ""), chosen),
        training_file=asked.get("training_file") or PurePath(spec.get("data", "")).name,
        validation_file=asked.get("validation_file"),
        result_files=list(job.progress.get("results", ())),
        seed=spec.get("seed", 0),
        error=JobError(code="job_failed", message=job.error) if job.error else None,
        metadata=asked.get("metadata"),
        suffix=asked.get("suffix"),
        priority=job.priority,
    )


def status_of(job: Job) -> Status:
    stage = job.progress.get("stage", VALIDATING[0])
    return "validating_files" if job.state == "running" and stage in VALIDATING else job.state


def event_object(event: Event) -> FineTuningJobEvent:
    return FineTuningJobEvent(
        id=event.id,
        created_at=int(event.created_at.timestamp()),
        level=event.level,
        message=event.message,
        type="metrics" if event.data and "train_loss" in event.data else "message",
        data=dict(event.data) if event.data else None,
    )


def checkpoint_object(job: Job, checkpoint: Checkpoint) -> FineTuningJobCheckpoint:
    """Its model is a name for people: a run goes on from a checkpoint, nothing is served by it."""
    metrics = checkpoint.metrics
    return FineTuningJobCheckpoint(
        id=checkpoint.id,
        created_at=int(checkpoint.created_at.timestamp()),
        fine_tuning_job_id=job.id,
        fine_tuned_model_checkpoint=f"{job.spec.get('name', '')}:ckpt-step-{checkpoint.step}",
        step_number=checkpoint.step,
        metrics=CheckpointMetrics(
            step=checkpoint.step,
            train_loss=metrics.get("loss"),
            full_valid_loss=metrics.get("valid_loss"),
        ),
    )


def _model(registry: Registry, job: Job) -> str | None:
    """`NAME:NUMBER`, which is asked like any other model."""
    if job.version_digest is None:
        return None
    try:
        for version in registry.versions(job.tenant, job.spec.get("name", "")):
            if version.digest == job.version_digest:
                return version.ref
    except RegistryError:  # its bytes are damaged or gone; the job is still what it was
        return None
    return None


def settings_of(method: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """What was `chosen`, and the default of all else that the method takes."""
    try:
        return parse_settings(method, chosen).model_dump()
    except ValueError:  # a row of another version of this program
        return chosen


def _hyperparameters(method: str, chosen: dict[str, Any]) -> Hyperparameters:
    settings = settings_of(method, chosen)
    return Hyperparameters.model_validate(
        {name: settings.get(name) for name in Hyperparameters.model_fields}
    )
