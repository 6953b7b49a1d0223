"""A job's story: what happened to it, numbered from 1, each told once and never changed.

Refuses to know why. Whoever adds to a story holds its job's row in the same transaction.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, func, select

from rootstock_registry.errors import NotFound
from rootstock_registry.model_work import events
from rootstock_registry.records_work import Event

MAX_MESSAGE_CHARS = 2000


def add(
    connection: Connection,
    job: str,
    level: str,
    message: str,
    data: dict[str, Any] | None = None,
) -> None:
    last = connection.scalar(select(func.max(events.c.seq)).where(events.c.job == job))
    connection.execute(
        events.insert().values(
            job=job,
            seq=(last or 0) + 1,
            created_at=time.time(),
            level=level,
            message=message[:MAX_MESSAGE_CHARS],
            data=None if data is None else json.dumps(data, allow_nan=False),
        )
    )


def page(
    connection: Connection, job: str, after: int | None = None, limit: int | None = None
) -> list[Event]:
    """Newest first, `limit` of them from the one behind number `after`."""
    query = select(events).where(events.c.job == job).order_by(events.c.seq.desc())
    if after is not None:
        query = query.where(events.c.seq < after)
    return [
        Event(
            job=row.job,
            seq=row.seq,
            created_at=datetime.fromtimestamp(row.created_at, UTC),
            level=row.level,
            message=row.message,
            data=None if row.data is None else json.loads(row.data),
        )
        for row in connection.execute(query.limit(limit))
    ]


def number(job: str, event_id: str) -> int:
    """The number in `ftevent-JOB-NUMBER`. Raises NotFound where it is not of this job."""
    head, _, tail = event_id.rpartition("-")
    if head != Event.prefix(job) or not tail.isdecimal() or len(tail) > 9:
        raise NotFound(f"event {event_id[:80]!r} does not exist")
    return int(tail)
