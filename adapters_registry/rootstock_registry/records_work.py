"""What the registry hands out about work: uploaded files, jobs' events and checkpoints. Frozen.

Refuses to know how they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class StoredFile:
    """A tenant's uploaded file; its bytes are the blob `digest`."""

    id: str
    tenant: str
    filename: str
    purpose: str
    bytes: int
    digest: str
    created_at: datetime


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; `level` is info, warn or error."""

    job: str
    seq: int
    created_at: datetime
    level: str
    message: str
    data: Mapping[str, Any] | None

    @staticmethod
    def prefix(job: str) -> str:
        return f"ftevent-{job.rpartition('-')[2]}"

    @property
    def id(self) -> str:
        return f"{self.prefix(self.job)}-{self.seq}"


@dataclass(frozen=True)
class Checkpoint:
    """Where a run can be taken up again; `folder` is below the home's."""

    id: str
    job: str
    step: int
    folder: str
    metrics: Mapping[str, float]
    created_at: datetime
