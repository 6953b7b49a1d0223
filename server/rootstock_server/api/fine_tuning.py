"""OpenAI's fine-tuning jobs over HTTP: created, listed, followed, paused, resumed, cancelled.

Translates only: the queue is the registry's, the work the sidecar's. Refuses to know methods.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from rootstock_registry import Job, KeyOwner, Registry
from rootstock_wire.fine_tuning import (
    MAX_PAGE,
    CreateJobRequest,
    FineTuningJob,
    FineTuningJobCheckpoint,
    FineTuningJobEvent,
)
from rootstock_wire.pages import Page

from rootstock_server.api.caller import caller_of
from rootstock_server.api.fine_tuning_objects import checkpoint_object, event_object, job_object
from rootstock_server.api.fine_tuning_spec import row_of
from rootstock_server.api.handle import Handle
from rootstock_server.api.registry_calls import openai_words

After = Annotated[str | None, Query(max_length=64)]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
IdempotencyKey = Annotated[str | None, Header(min_length=1, max_length=255)]


def routes(handle: Handle) -> APIRouter:
    router = APIRouter(prefix="/v1/fine_tuning", tags=["fine-tuning"])

    @router.post("/jobs")
    async def create_job(
        body: CreateJobRequest, request: Request, idempotency_key: IdempotencyKey = None
    ) -> FineTuningJob:
        """The same Idempotency-Key again, with the same body, gives the same job."""
        caller = caller_of(request, "publisher")
        return await asyncio.to_thread(_create, handle, caller, body, idempotency_key)

    @router.get("/jobs")
    async def list_jobs(
        request: Request, after: After = None, limit: Limit = 20
    ) -> Page[FineTuningJob]:
        tenant = caller_of(request, "publisher").tenant
        wanted = _metadata_filter(request)

        def read() -> list[FineTuningJob]:
            return _page_of_jobs(handle, tenant, wanted, after, limit + 1)

        with openai_words("after"):
            found = await asyncio.to_thread(read)
        return Page[FineTuningJob].of(found, limit)

    @router.get("/jobs/{job_id}")
    async def retrieve_job(job_id: str, request: Request) -> FineTuningJob:
        return await _job(handle, request, job_id, Registry.tenant_job)

    @router.post("/jobs/{job_id}/cancel")
    async def cancel_job(job_id: str, request: Request) -> FineTuningJob:
        """At once: a worker that still runs registers nothing."""
        return await _job(handle, request, job_id, Registry.cancel_job)

    @router.post("/jobs/{job_id}/pause")
    async def pause_job(job_id: str, request: Request) -> FineTuningJob:
        """A running job pauses when its worker has written a checkpoint."""
        return await _job(handle, request, job_id, Registry.pause_job)

    @router.post("/jobs/{job_id}/resume")
    async def resume_job(job_id: str, request: Request) -> FineTuningJob:
        return await _job(handle, request, job_id, Registry.resume_job)

    @router.get("/jobs/{job_id}/events")
    async def list_events(
        job_id: str, request: Request, after: After = None, limit: Limit = 20
    ) -> Page[FineTuningJobEvent]:
        """Newest first."""
        tenant = caller_of(request, "publisher").tenant
        with openai_words():
            found = await asyncio.to_thread(
                handle.registry.job_events, tenant, job_id, after, limit + 1
            )
        return Page[FineTuningJobEvent].of([event_object(event) for event in found], limit)

    @router.get("/jobs/{job_id}/checkpoints")
    async def list_checkpoints(
        job_id: str, request: Request, after: After = None, limit: Limit = 10
    ) -> Page[FineTuningJobCheckpoint]:
        """Newest first."""
        tenant = caller_of(request, "publisher").tenant
        with openai_words():
            job = await asyncio.to_thread(handle.registry.tenant_job, tenant, job_id)
            found = await asyncio.to_thread(
                handle.registry.job_checkpoints, tenant, job_id, after, limit + 1
            )
        items = [checkpoint_object(job, checkpoint) for checkpoint in found]
        return Page[FineTuningJobCheckpoint].of(items, limit)

    return router


def _create(
    handle: Handle, caller: KeyOwner, body: CreateJobRequest, key: str | None
) -> FineTuningJob:
    registry = handle.registry
    row = row_of(handle, caller, body)
    with openai_words():
        job = registry.submit_job(
            caller.tenant,
            row,
            idempotency_key=key,
            priority=body.priority,
            max_waiting=handle.limits.training.max_waiting_per_tenant,
        )
    return job_object(registry, job)


def _page_of_jobs(
    handle: Handle, tenant: str, wanted: dict[str, str], after: str | None, count: int
) -> list[FineTuningJob]:
    """Up to `count` jobs that carry all of the metadata that is `wanted`."""
    registry = handle.registry
    found: list[FineTuningJob] = []
    while len(found) < count:
        jobs = registry.jobs(tenant, after, MAX_PAGE)
        objects = [job_object(registry, job) for job in jobs]
        found += [each for each in objects if wanted.items() <= (each.metadata or {}).items()]
        if len(jobs) < MAX_PAGE:
            break
        after = jobs[-1].id
    return found[:count]


async def _job(
    handle: Handle, request: Request, job_id: str, act: Callable[[Registry, str, str], Job]
) -> FineTuningJob:
    tenant = caller_of(request, "publisher").tenant
    with openai_words("fine_tuning_job_id"):
        job = await asyncio.to_thread(act, handle.registry, tenant, job_id)
    return await asyncio.to_thread(job_object, handle.registry, job)


def _metadata_filter(request: Request) -> dict[str, str]:
    """`metadata[key]=value`, as the SDK writes it."""
    return {
        name[len("metadata[") : -1]: value
        for name, value in request.query_params.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
