"""A job's spec with the files it names by id put where the trainer can read them.

Refuses to know what is in a file, and to read one of another tenant.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from rootstock_registry import Job, Registry

from rootstock_trainer.errors import BadSpec

FILE_ID = re.compile(r"file-[0-9a-f]{1,60}")
FIELDS = ("data", "validation")
SUFFIXES = (".jsonl", ".csv", ".parquet")


def job_folder(home: Path, job_id: str) -> Path:
    """Where a job keeps what it needs until it ends."""
    return home / "jobs" / job_id


def tidy(home: Path, job_id: str) -> None:
    """A job that has ended is never taken up again: its inputs and checkpoints go."""
    folder = job_folder(home, job_id)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for field in FIELDS:
        for file in folder.glob(f"{field}.*"):
            file.unlink(missing_ok=True)


def localized(registry: Registry, home: Path, job: Job) -> dict[str, Any]:
    """The spec as `TrainSpec` reads it. Raises BadSpec where a file is gone."""
    spec = {name: value for name, value in job.spec.items() if name != "request"}
    for field in FIELDS:
        value = spec.get(field)
        if isinstance(value, str) and FILE_ID.fullmatch(value):
            spec[field] = str(_fetched(registry, home, job, value, field))
    return spec


def _fetched(registry: Registry, home: Path, job: Job, file_id: str, field: str) -> Path:
    stored = registry.file(job.tenant, file_id)
    suffix = Path(stored.filename).suffix.lower()
    if suffix not in SUFFIXES:
        raise BadSpec(f"{field}: {file_id} is none of {', '.join(SUFFIXES)}")
    folder = job_folder(home, job.id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Named by us: an uploaded name never becomes a path.
    place = folder / f"{field}{suffix}"
    place.write_bytes(registry.blobs.get(stored.digest))
    return place
