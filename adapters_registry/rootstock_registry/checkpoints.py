"""Which checkpoints a job has: where each stands, and how good the run was there.

Refuses to know what is in them, and to remove a file.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from sqlalchemy import Connection, delete, select

from rootstock_registry.errors import NotFound
from rootstock_registry.model_work import checkpoints
from rootstock_registry.records_work import Checkpoint

KEPT = 3


def add(
    connection: Connection, job: str, step: int, folder: str, metrics: Mapping[str, float]
) -> None:
    """The last few stay; the same step again replaces what there was."""
    of_job = checkpoints.c.job == job
    connection.execute(delete(checkpoints).where(of_job, checkpoints.c.step == step))
    connection.execute(
        checkpoints.insert().values(
            id=f"ftckpt-{secrets.token_hex(12)}",
            job=job,
            step=step,
            folder=folder,
            metrics=json.dumps(dict(metrics), allow_nan=False),
            created_at=time.time(),
        )
    )
    kept = select(checkpoints.c.step).where(of_job).order_by(checkpoints.c.step.desc()).limit(KEPT)
    # The list, not the query: a database may refuse to delete from what it reads.
    steps = list(connection.scalars(kept))
    connection.execute(delete(checkpoints).where(of_job, checkpoints.c.step.not_in(steps)))


def page(
    connection: Connection, job: str, after: str | None = None, limit: int | None = None
) -> list[Checkpoint]:
    """Newest first, `limit` of them from the one behind `after`. Raises NotFound for `after`."""
    query = select(checkpoints).where(checkpoints.c.job == job)
    if after is not None:
        place = select(checkpoints.c.step).where(
            checkpoints.c.id == after, checkpoints.c.job == job
        )
        step = connection.scalar(place)
        if step is None:
            raise NotFound(f"checkpoint {after[:80]!r} does not exist")
        query = query.where(checkpoints.c.step < step)
    return [
        Checkpoint(
            id=row.id,
            job=row.job,
            step=row.step,
            folder=row.folder,
            metrics=json.loads(row.metrics),
            created_at=datetime.fromtimestamp(row.created_at, UTC),
        )
        for row in connection.execute(query.order_by(checkpoints.c.step.desc()).limit(limit))
    ]
