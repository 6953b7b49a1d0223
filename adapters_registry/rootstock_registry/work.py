"""The registry's half about work: files, jobs, their events and their checkpoints.

Every method is one transaction. Refuses to know versions and aliases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from sqlalchemy import Connection

from rootstock_registry import checkpoints, events, files, job_rows, jobs, keeping
from rootstock_registry.opened import Opened
from rootstock_registry.records import Job
from rootstock_registry.records_work import Checkpoint, Event, StoredFile


class Work(Opened):
    """A method with a tenant knows no other tenant's work."""

    # Files

    def add_file(
        self, tenant: str, filename: str, purpose: str, data: bytes, *, room: int | None = None
    ) -> StoredFile:
        """Store an upload. Raises Conflict where the tenant's files would exceed `room` bytes,
        InvalidName for a filename, NotFound for a tenant."""
        if room is not None:  # before anything is stored
            with self._database.reads.connect() as connection:
                files.check_room(connection, tenant, len(data), room)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"

        def register(connection: Connection) -> StoredFile:
            if room is not None:  # again: others have uploaded meanwhile
                files.check_room(connection, tenant, len(data), room)
            return files.add(connection, tenant, filename, purpose, len(data), digest)

        return keeping.store(self._database, self.blobs, [data], register)

    def file(self, tenant: str, file_id: str) -> StoredFile:
        with self._database.reads.connect() as connection:
            return files.get(connection, tenant, file_id)

    def files(
        self,
        tenant: str,
        *,
        purpose: str | None = None,
        after: str | None = None,
        limit: int | None = None,
        order: Literal["asc", "desc"] = "desc",
    ) -> list[StoredFile]:
        with self._database.reads.connect() as connection:
            return files.page(
                connection, tenant, purpose=purpose, after=after, limit=limit, order=order
            )

    def delete_file(self, tenant: str, file_id: str) -> None:
        with self._database.writes.begin() as connection:
            files.remove(connection, tenant, file_id)

    # Jobs, as their tenants see them

    def submit_job(
        self,
        tenant: str,
        spec: dict[str, Any],
        *,
        idempotency_key: str | None = None,
        priority: int = 0,
        max_waiting: int | None = None,
    ) -> Job:
        """The same `idempotency_key` again gives the same job. Raises as `jobs.submit` says."""
        with self._database.writes.begin() as connection:
            return jobs.submit(
                connection,
                tenant,
                spec,
                idempotency_key=idempotency_key,
                priority=priority,
                max_waiting=max_waiting,
            )

    def job(self, job_id: str) -> Job:
        """Raises NotFound. Not tenant-scoped: for workers, and whoever owns the machine."""
        with self._database.reads.connect() as connection:
            return job_rows.get(connection, job_id)

    def tenant_job(self, tenant: str, job_id: str) -> Job:
        """Raises NotFound, for a foreign job, too."""
        with self._database.reads.connect() as connection:
            return job_rows.of_tenant(connection, tenant, job_id)

    def jobs(self, tenant: str, after: str | None = None, limit: int | None = None) -> list[Job]:
        """Newest first, from the one behind `after`."""
        with self._database.reads.connect() as connection:
            return job_rows.page(connection, tenant, after, limit)

    def cancel_job(self, tenant: str, job_id: str) -> Job:
        """Raises Conflict where the job has ended otherwise."""
        with self._database.writes.begin() as connection:
            return jobs.cancel(connection, tenant, job_id)

    def pause_job(self, tenant: str, job_id: str) -> Job:
        """Raises Conflict where the job has ended."""
        with self._database.writes.begin() as connection:
            return jobs.pause(connection, tenant, job_id)

    def resume_job(self, tenant: str, job_id: str) -> Job:
        """Raises Conflict where the job has ended."""
        with self._database.writes.begin() as connection:
            return jobs.resume(connection, tenant, job_id)

    def job_events(
        self, tenant: str, job_id: str, after: str | None = None, limit: int | None = None
    ) -> list[Event]:
        """Newest first, from the one behind `after`."""
        with self._database.reads.connect() as connection:
            job = job_rows.of_tenant(connection, tenant, job_id)
            number = None if after is None else events.number(job.id, after)
            return events.page(connection, job.id, number, limit)

    def job_checkpoints(
        self, tenant: str, job_id: str, after: str | None = None, limit: int | None = None
    ) -> list[Checkpoint]:
        """Newest first, from the one behind `after`."""
        with self._database.reads.connect() as connection:
            job = job_rows.of_tenant(connection, tenant, job_id)
            return checkpoints.page(connection, job.id, after, limit)

    # Jobs, as their workers hold them

    def claim_job(
        self,
        owner: str,
        lease_s: float,
        job_id: str | None = None,
        *,
        per_tenant: int | None = None,
    ) -> Job | None:
        """A job to work on for `lease_s` seconds, renewable; None where there is none."""
        with self._database.writes.begin() as connection:
            return jobs.claim(connection, owner, lease_s, job_id, per_tenant)

    def renew_job(self, job: Job, lease_s: float, progress: dict[str, Any]) -> Job:
        """The job as it is now. Raises Conflict where it is no longer held: stop working on it."""
        with self._database.writes.begin() as connection:
            return jobs.renew(connection, job, lease_s, progress)

    def tell_job(
        self, job: Job, message: str, data: dict[str, Any] | None = None, level: str = "info"
    ) -> None:
        """Add to its events. Raises Conflict as `renew_job` does."""
        with self._database.writes.begin() as connection:
            jobs.tell(connection, job, level, message, data)

    def checkpoint_job(
        self, job: Job, step: int, folder: str, metrics: Mapping[str, float]
    ) -> None:
        """Raises Conflict as `renew_job` does."""
        with self._database.writes.begin() as connection:
            jobs.tell(connection, job, "info", f"Checkpoint created at step {step}", {"step": step})
            checkpoints.add(connection, job.id, step, folder, metrics)

    def finish_job(self, job: Job, version_digest: str) -> None:
        """Raises Conflict as `renew_job` does. Not needed after `publish(…, job=job)`."""
        with self._database.writes.begin() as connection:
            jobs.finish(connection, job, version_digest)

    def fail_job(self, job: Job, message: str) -> None:
        """Raises Conflict as `renew_job` does."""
        with self._database.writes.begin() as connection:
            jobs.fail(connection, job, message)

    def release_job(self, job: Job, *, paused: bool = False) -> None:
        """Back into the queue, or `paused`. Raises Conflict as `renew_job` does."""
        with self._database.writes.begin() as connection:
            jobs.release(connection, job, paused=paused)

    def lose_job(self, job: Job, message: str) -> Job:
        """Its worker has died; the job is tried again, unless that has happened too often.

        Raises Conflict as `renew_job` does.
        """
        with self._database.writes.begin() as connection:
            return jobs.lose(connection, job, message)
