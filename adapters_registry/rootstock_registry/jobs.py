"""The queue of training runs: rows with a lease and a fencing token.

A lease that ran out frees the job; the fence keeps its late holder from writing anything
(Kleppmann, "How to do distributed locking", 2016). Refuses to know what a job's spec means.
"""

from __future__ import annotations

import secrets
import time
from typing import Any

from sqlalchemy import Connection, func, select, update
from sqlalchemy.exc import IntegrityError

from rootstock_registry import audit, events
from rootstock_registry.errors import Conflict, InvalidName, NotFound
from rootstock_registry.index import check_tenant
from rootstock_registry.job_rows import as_job, as_json, get, with_lock
from rootstock_registry.model import versions
from rootstock_registry.model_work import checkpoints, jobs
from rootstock_registry.model_work import events as told
from rootstock_registry.records import Job

# A job whose workers keep dying without a checkpoint between would otherwise be tried for ever.
MAX_DEATHS = 3
MAX_KEY_CHARS = 255
MAX_PRIORITY = 100
ENDED = ("succeeded", "failed", "cancelled")


def submit(
    connection: Connection,
    tenant: str,
    spec: dict[str, Any],
    *,
    idempotency_key: str | None = None,
    priority: int = 0,
    max_waiting: int | None = None,
) -> Job:
    """The new job; or, where the tenant has used `idempotency_key` before, the job of that time.

    Raises Conflict where the key was used for another spec, or `max_waiting` jobs wait already.
    """
    check_tenant(connection, tenant)
    document = as_json("spec", spec)
    _check_limits(idempotency_key, priority)
    if idempotency_key is not None:
        earlier = _by_key(connection, tenant, idempotency_key, document)
        if earlier is not None:
            return earlier
    _check_waiting(connection, tenant, max_waiting)
    job_id = f"ftjob-{secrets.token_hex(12)}"
    row = {"id": job_id, "tenant": tenant, "spec": document, "state": "queued", "fence": 0}
    row |= {"idempotency_key": idempotency_key, "priority": priority, "progress": "{}"}
    try:
        with connection.begin_nested():
            connection.execute(jobs.insert().values(**row, created_at=time.time()))
    except IntegrityError:
        # Another connection has used the key since we looked.
        earlier = _by_key(connection, tenant, idempotency_key or "", document)
        if earlier is None:
            raise
        return earlier
    events.add(connection, job_id, "info", f"Created fine-tuning job: {job_id}")
    detail: dict[str, Any] = {key: spec[key] for key in ("method", "name") if key in spec}
    audit.record(connection, tenant, "submit job", job_id, detail)
    return get(connection, job_id)


def claim(
    connection: Connection,
    owner: str,
    lease_s: float,
    job_id: str | None = None,
    per_tenant: int | None = None,
) -> Job | None:
    """The first job (or `job_id`) that nobody works on, now `owner`'s for `lease_s` seconds.

    First by priority, then by age; none of a tenant that has `per_tenant` jobs running.
    """
    _free_abandoned(connection)
    query = select(jobs.c.id).where(jobs.c.state == "queued")
    if job_id is not None:
        query = query.where(jobs.c.id == job_id)
    if per_tenant is not None:
        query = query.where(jobs.c.tenant.not_in(_busy_tenants(per_tenant)))
    # Two databases' worth of claimants: whoever else looks skips the row that we have locked.
    first = query.order_by(jobs.c.priority.desc(), jobs.c.seq).limit(1)
    found = connection.scalar(first.with_for_update(skip_locked=True))
    if found is None:
        return None
    connection.execute(
        update(jobs)
        .where(jobs.c.id == found)
        .values(
            state="running",
            requested=None,
            owner=owner,
            lease_expires_at=time.time() + lease_s,
            fence=jobs.c.fence + 1,
        )
    )
    job = get(connection, found)
    again = "again " if job.fence > 1 else ""
    events.add(connection, found, "info", f"Fine-tuning job started {again}by {owner}")
    return job


def renew(connection: Connection, job: Job, lease_s: float, progress: dict[str, Any]) -> Job:
    """The job as it is now: `requested` is what its tenant wants of its worker."""
    document = as_json("progress", progress)
    _update(connection, job, lease_expires_at=time.time() + lease_s, progress=document)
    return get(connection, job.id)


def tell(
    connection: Connection, job: Job, level: str, message: str, data: dict[str, Any] | None
) -> None:
    """Add to the job's story, as its holder."""
    _update(connection, job, owner=job.owner)
    events.add(connection, job.id, level, message, data)


def finish(connection: Connection, job: Job, version_digest: str) -> None:
    """Saying it twice is no error: publishing may already have finished the job."""
    now = get(connection, job.id)
    done = now.state == "succeeded" and now.fence == job.fence
    if done and now.version_digest == version_digest:
        return
    query = select(versions.c.name, versions.c.number).where(
        versions.c.tenant == job.tenant, versions.c.digest == version_digest
    )
    made = connection.execute(query).first()
    if made is None:
        raise NotFound(f"job {job.id}: no version has the digest {version_digest[:80]!r}")
    _end(connection, job, state="succeeded", version_digest=version_digest)
    message = f"Fine-tuning job succeeded. New model: {made.name}:{made.number}"
    events.add(connection, job.id, "info", message, {"version": version_digest})


def fail(connection: Connection, job: Job, message: str) -> None:
    _end(connection, job, state="failed", error=message)
    events.add(connection, job.id, "error", f"Fine-tuning job failed: {message}")


def release(connection: Connection, job: Job, *, paused: bool = False) -> None:
    """Its holder puts the job back: into the queue, or aside until somebody resumes it."""
    state = "paused" if paused else "queued"
    _update(connection, job, state=state, requested=None, owner=None, lease_expires_at=None)
    message = "paused" if paused else "interrupted; it waits for a worker"
    events.add(connection, job.id, "info", f"Fine-tuning job {message}")


def lose(connection: Connection, job: Job, message: str) -> Job:
    """The worker of this claim is dead: the job waits for another one, or has had enough."""
    _update(connection, job, lease_expires_at=None)
    _lost(connection, job.id, message)
    return get(connection, job.id)


def cancel(connection: Connection, tenant: str, job_id: str) -> Job:
    """At once, whoever works on it: that one can write nothing more. Twice is no error."""
    job = with_lock(connection, tenant, job_id)
    if job.state == "cancelled":
        return job
    _check_not_ended(job, "cancelled")
    _put(connection, job, state="cancelled", requested=None, finished_at=time.time())
    events.add(connection, job_id, "info", "Fine-tuning job cancelled")
    audit.record(connection, tenant, "cancel job", job_id)
    return get(connection, job_id)


def pause(connection: Connection, tenant: str, job_id: str) -> Job:
    """A waiting job at once; a running one when its worker has written a checkpoint."""
    job = with_lock(connection, tenant, job_id)
    if job.state == "paused":
        return job
    _check_not_ended(job, "paused")
    if job.state == "queued":
        _put(connection, job, state="paused")
        events.add(connection, job_id, "info", "Fine-tuning job paused")
    elif job.requested is None:
        _put(connection, job, requested="pause")
        events.add(connection, job_id, "info", "Pausing fine-tuning job after a checkpoint")
    return get(connection, job_id)


def resume(connection: Connection, tenant: str, job_id: str) -> Job:
    """Back into the queue; a running job that was to be paused goes on."""
    job = with_lock(connection, tenant, job_id)
    _check_not_ended(job, "resumed")
    if job.state == "paused":
        _put(connection, job, state="queued")
        events.add(connection, job_id, "info", "Fine-tuning job resumed; it waits for a worker")
    elif job.requested is not None:
        _put(connection, job, requested=None)
        events.add(connection, job_id, "info", "Fine-tuning job goes on")
    return get(connection, job_id)


def _by_key(connection: Connection, tenant: str, key: str, document: str) -> Job | None:
    query = select(jobs).where(jobs.c.tenant == tenant, jobs.c.idempotency_key == key)
    row = connection.execute(query).first()
    if row is None:
        return None
    if row.spec != document:
        raise Conflict(
            f"the idempotency key {key[:80]!r} was used for another job ({row.id}): "
            "use a new key for a new job"
        )
    return as_job(row)


def _check_limits(idempotency_key: str | None, priority: int) -> None:
    if idempotency_key is not None and not 1 <= len(idempotency_key) <= MAX_KEY_CHARS:
        raise InvalidName(f"the idempotency key must have 1 to {MAX_KEY_CHARS} characters")
    if abs(priority) > MAX_PRIORITY:
        raise InvalidName(f"priority {priority} is not between -{MAX_PRIORITY} and {MAX_PRIORITY}")


def _check_waiting(connection: Connection, tenant: str, most: int | None) -> None:
    if most is None:
        return
    waits = (jobs.c.tenant == tenant, jobs.c.state.in_(("queued", "paused")))
    waiting = connection.scalar(select(func.count()).select_from(jobs).where(*waits)) or 0
    if waiting >= most:
        raise Conflict(
            f"{waiting} jobs of this tenant wait already, and {most} may: wait for some to end, "
            "or cancel them"
        )


def _busy_tenants(per_tenant: int) -> Any:
    running = select(jobs.c.tenant).where(jobs.c.state == "running").group_by(jobs.c.tenant)
    return running.having(func.count() >= per_tenant)


def _free_abandoned(connection: Connection) -> None:
    """Jobs whose lease ran out: their workers are dead, or too late for anything."""
    late = (jobs.c.state == "running", jobs.c.lease_expires_at < time.time())
    query = select(jobs.c.id).where(*late).with_for_update(skip_locked=True)
    for job_id in list(connection.scalars(query)):
        _lost(connection, job_id, "its worker stopped answering")


def _lost(connection: Connection, job_id: str, message: str) -> None:
    events.add(connection, job_id, "warn", f"Worker lost: {message}", {"lost": True})
    job = get(connection, job_id)
    if _deaths(connection, job_id) < MAX_DEATHS:
        state = "paused" if job.requested == "pause" else "queued"
        _put(connection, job, state=state, requested=None)
        return
    error = f"{message} ({MAX_DEATHS} times without a checkpoint between)"
    _put(connection, job, state="failed", error=error, finished_at=time.time())
    events.add(connection, job_id, "error", f"Fine-tuning job failed: {error}")


def _deaths(connection: Connection, job_id: str) -> int:
    """How often a worker was lost since the last checkpoint."""
    last = select(func.max(checkpoints.c.created_at)).where(checkpoints.c.job == job_id)
    since = connection.scalar(last) or 0.0
    lost = (told.c.job == job_id, told.c.level == "warn", told.c.message.startswith("Worker lost"))
    query = select(func.count()).select_from(told).where(*lost, told.c.created_at >= since)
    return connection.scalar(query) or 0


def _check_not_ended(job: Job, wanted: str) -> None:
    if job.state in ENDED:
        raise Conflict(f"job {job.id} has {job.state} already and cannot be {wanted}")


def _put(connection: Connection, job: Job, **values: Any) -> None:
    """For a job that the caller has locked. Whatever is no longer running has no holder."""
    if values.get("state", "running") != "running":
        values |= {"owner": None, "lease_expires_at": None}
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(**values))


def _end(connection: Connection, job: Job, **values: Any) -> None:
    now = time.time()
    _update(connection, job, **values, requested=None, finished_at=now, lease_expires_at=None)


def _update(connection: Connection, job: Job, **values: Any) -> None:
    """For the holder of a claim, and for nobody else."""
    held = (jobs.c.id == job.id, jobs.c.fence == job.fence, jobs.c.state == "running")
    if connection.execute(update(jobs).where(*held).values(**values)).rowcount != 1:
        now = get(connection, job.id)
        how = "its lease was taken over" if now.fence != job.fence else f"it is {now.state}"
        raise Conflict(f"job {job.id} is no longer held by {job.owner}: {how}")
