"""The queue of training runs: rows with a lease and a fencing token.

A lease that ran out frees the job; the fence keeps its late holder from writing anything
(Kleppmann, "How to do distributed locking", 2016). Refuses to know what a job's spec means.
"""

from __future__ import annotations

import json
import secrets
import time
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, or_, select, update

from rootstock_registry.errors import Conflict, InvalidArtifact, NotFound
from rootstock_registry.index import check_tenant
from rootstock_registry.model import versions
from rootstock_registry.model_work import jobs
from rootstock_registry.records import Job

# A job whose workers keep dying would otherwise be tried for ever.
MAX_CLAIMS = 3


def submit(connection: Connection, tenant: str, spec: dict[str, Any]) -> Job:
    check_tenant(connection, tenant)
    job_id = f"job_{secrets.token_hex(12)}"
    connection.execute(
        jobs.insert().values(
            id=job_id,
            tenant=tenant,
            spec=_json("spec", spec),
            state="queued",
            fence=0,
            progress="{}",
            created_at=time.time(),
        )
    )
    return get(connection, job_id)


def get(connection: Connection, job_id: str) -> Job:
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
    if row is None:
        raise NotFound(f"job {job_id[:80]!r} does not exist")
    return _job(row)


def of_tenant(connection: Connection, tenant: str) -> list[Job]:
    """Newest first."""
    query = select(jobs).where(jobs.c.tenant == tenant).order_by(jobs.c.seq.desc())
    return [_job(row) for row in connection.execute(query)]


def claim(connection: Connection, owner: str, lease_s: float, job_id: str | None) -> Job | None:
    """The oldest job (or `job_id`) that nobody works on, now `owner`'s for `lease_s` seconds."""
    now = time.time()
    abandoned = and_(jobs.c.state == "running", jobs.c.lease_expires_at < now)
    _give_up(connection, and_(abandoned, jobs.c.fence >= MAX_CLAIMS), now)
    query = select(jobs.c.id).where(or_(jobs.c.state == "queued", abandoned))
    if job_id is not None:
        query = query.where(jobs.c.id == job_id)
    found = connection.scalar(query.order_by(jobs.c.seq).limit(1))
    if found is None:
        return None
    connection.execute(
        update(jobs)
        .where(jobs.c.id == found)
        .values(
            state="running", owner=owner, lease_expires_at=now + lease_s, fence=jobs.c.fence + 1
        )
    )
    return get(connection, found)


def renew(connection: Connection, job: Job, lease_s: float, progress: dict[str, Any]) -> None:
    _update(
        connection,
        job,
        lease_expires_at=time.time() + lease_s,
        progress=_json("progress", progress),
    )


def finish(connection: Connection, job: Job, version_digest: str) -> None:
    """Saying it twice is no error: publishing may already have finished the job."""
    now = get(connection, job.id)
    done = now.state == "succeeded" and now.fence == job.fence
    if done and now.version_digest == version_digest:
        return
    query = select(versions.c.id).where(
        versions.c.tenant == job.tenant, versions.c.digest == version_digest
    )
    if connection.execute(query).first() is None:
        raise NotFound(f"job {job.id}: no version has the digest {version_digest[:80]!r}")
    _update(
        connection,
        job,
        state="succeeded",
        version_digest=version_digest,
        finished_at=time.time(),
        lease_expires_at=None,
    )


def fail(connection: Connection, job: Job, message: str) -> None:
    _update(
        connection,
        job,
        state="failed",
        error=message,
        finished_at=time.time(),
        lease_expires_at=None,
    )


def _update(connection: Connection, job: Job, **values: Any) -> None:
    held = and_(jobs.c.id == job.id, jobs.c.fence == job.fence, jobs.c.state == "running")
    if connection.execute(update(jobs).where(held).values(**values)).rowcount != 1:
        raise Conflict(f"job {job.id} is no longer held by {job.owner}: its lease was taken over")


def _give_up(connection: Connection, where: Any, now: float) -> None:
    error = f"its worker died or stopped answering {MAX_CLAIMS} times"
    connection.execute(
        update(jobs)
        .where(where)
        .values(state="failed", error=error, finished_at=now, lease_expires_at=None)
    )


def _json(field: str, value: dict[str, Any]) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArtifact(f"job {field} has no JSON form: {error}") from error


def _job(row: Row[Any]) -> Job:
    def when(seconds: float | None) -> datetime | None:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    return Job(
        id=row.id,
        tenant=row.tenant,
        spec=json.loads(row.spec),
        state=row.state,
        owner=row.owner,
        lease_expires_at=when(row.lease_expires_at),
        fence=row.fence,
        progress=json.loads(row.progress),
        error=row.error,
        version_digest=row.version_digest,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        finished_at=when(row.finished_at),
    )
