"""Jobs as they are read: one by its id, pages of a tenant's, rows as records.

Refuses to know how a job changes.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from rootstock_registry.errors import InvalidArtifact, NotFound
from rootstock_registry.model_work import jobs
from rootstock_registry.records import Job


def get(connection: Connection, job_id: str) -> Job:
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
    if row is None:
        raise _unknown(job_id)
    return as_job(row)


def of_tenant(connection: Connection, tenant: str, job_id: str) -> Job:
    """Raises NotFound; for another tenant's job, exactly as for one that does not exist."""
    return _theirs(connection, tenant, job_id, lock=False)


def with_lock(connection: Connection, tenant: str, job_id: str) -> Job:
    """As `of_tenant`; nobody else changes the row before this transaction ends."""
    return _theirs(connection, tenant, job_id, lock=True)


def page(
    connection: Connection, tenant: str, after: str | None = None, limit: int | None = None
) -> list[Job]:
    """Newest first, `limit` of them from the one behind `after`. Raises NotFound for `after`."""
    query = select(jobs).where(jobs.c.tenant == tenant).order_by(jobs.c.seq.desc())
    if after is not None:
        place = select(jobs.c.seq).where(jobs.c.id == after, jobs.c.tenant == tenant)
        seq = connection.scalar(place)
        if seq is None:
            raise _unknown(after)
        query = query.where(jobs.c.seq < seq)
    return [as_job(row) for row in connection.execute(query.limit(limit))]


def as_json(field: str, value: dict[str, Any]) -> str:
    try:
        return json.dumps(value, allow_nan=False, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise InvalidArtifact(f"job {field} has no JSON form: {error}") from error


def as_job(row: Row[Any]) -> Job:
    return Job(
        id=row.id,
        tenant=row.tenant,
        spec=json.loads(row.spec),
        state=row.state,
        requested=row.requested,
        priority=row.priority,
        idempotency_key=row.idempotency_key,
        owner=row.owner,
        lease_expires_at=_when(row.lease_expires_at),
        fence=row.fence,
        progress=json.loads(row.progress),
        error=row.error,
        version_digest=row.version_digest,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        finished_at=_when(row.finished_at),
    )


def _theirs(connection: Connection, tenant: str, job_id: str, *, lock: bool) -> Job:
    query = select(jobs).where(jobs.c.id == job_id, jobs.c.tenant == tenant)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise _unknown(job_id)
    return as_job(row)


def _unknown(job_id: str) -> NotFound:
    return NotFound(f"job {job_id[:80]!r} does not exist")


def _when(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
