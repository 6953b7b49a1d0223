"""`/jobs` and `/jobs/{job_id}`: the first state of each page, whole without its script.

Translates only: what a job is, `fine_tuning_objects.py` says. Refuses to change anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from rootstock_registry import Job, Registry
from rootstock_registry.records_work import StoredFile
from rootstock_wire.fine_tuning import MAX_PAGE, FineTuningJobEvent, Status

from rootstock_server.api.caller import caller_of
from rootstock_server.api.fine_tuning_objects import (
    event_object,
    job_object,
    settings_of,
    status_of,
)
from rootstock_server.api.handle import Handle
from rootstock_server.api.pages.document import HEADERS, page
from rootstock_server.api.registry_calls import openai_words
from rootstock_server.errors import Unknown

JOBS_SHOWN = 50
COMPARISONS_SHOWN = 10
EVENTS_SHOWN = 30  # as in jobs.js
ENDED = ("succeeded", "failed", "cancelled")
STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True)
class Step:
    """The last one that the events tell of."""

    step: int
    total: int
    loss: float

    @classmethod
    def last(cls, events: Sequence[FineTuningJobEvent]) -> Step | None:
        """Of `events`, newest first."""
        for event in events:
            if event.type == "metrics" and event.data is not None:
                step = event.data.get("step", 0)
                total = max(step, event.data.get("total_steps", 0))
                return cls(step, total, event.data["train_loss"])
        return None


@dataclass(frozen=True)
class Shown:
    """A job as a line of the list: `done` of `total` in its present `stage`."""

    id: str
    name: str
    method: str
    base: str
    created_at: int
    status: Status
    stage: str
    done: int
    total: int
    loss: float | None

    @property
    def live(self) -> bool:
        return self.status not in ENDED


def routes(handle: Handle) -> APIRouter:
    router = APIRouter(tags=["pages"], include_in_schema=False)
    still = {name: (STATIC / name).read_bytes() for name in ("jobs.js", "jobs.css", "jobs.svg")}

    @router.get("/jobs")
    async def jobs_page(
        request: Request, after: Annotated[str | None, Query(max_length=64)] = None
    ) -> Response:
        tenant = caller_of(request, "publisher").tenant
        with openai_words("after"):
            return await asyncio.to_thread(_list, handle.registry, tenant, after)

    @router.get("/jobs/{job_id}")
    async def job_page(job_id: str, request: Request) -> Response:
        tenant = caller_of(request, "publisher").tenant
        with openai_words("job_id"):
            return await asyncio.to_thread(_one, handle.registry, tenant, job_id)

    # Beside `/jobs` and not below it: a browser that was asked for a key here sends it unasked to
    # every path below `/`, so also to the JSON routes that the script reads (RFC 7617, 2.2).
    @router.get("/jobs.js")
    async def jobs_script() -> Response:
        return Response(still["jobs.js"], media_type="text/javascript", headers=HEADERS)

    @router.get("/jobs.css")
    async def jobs_style() -> Response:
        return Response(still["jobs.css"], media_type="text/css", headers=HEADERS)

    # Without it a browser asks for /favicon.ico, is refused, and forgets the key that it sent.
    @router.get("/jobs.svg")
    async def jobs_icon() -> Response:
        return Response(still["jobs.svg"], media_type="image/svg+xml", headers=HEADERS)

    return router


def _list(registry: Registry, tenant: str, after: str | None) -> Response:
    found = registry.jobs(tenant, after, JOBS_SHOWN + 1)
    jobs = [_shown(job, _events(registry, job, EVENTS_SHOWN)) for job in found[:JOBS_SHOWN]]
    comparisons = registry.comparisons(tenant, limit=COMPARISONS_SHOWN).data if not after else []
    return page(
        "jobs.html",
        jobs=jobs,
        older=jobs[-1].id if len(found) > JOBS_SHOWN else None,
        comparisons=comparisons,
        live=any(each.live for each in jobs),
    )


def _one(registry: Registry, tenant: str, job_id: str) -> Response:
    row = registry.tenant_job(tenant, job_id)
    events = _events(registry, row, MAX_PAGE)
    shown, job = _shown(row, events), job_object(registry, row)
    return page(
        "job.html",
        shown=shown,
        job=job,
        settings=settings_of(shown.method, row.spec.get("hyperparameters", {})),
        last=Step.last(events),
        events=events[:EVENTS_SHOWN],
        files=_files(registry, tenant, job.result_files),
    )


def _events(registry: Registry, row: Job, count: int) -> list[FineTuningJobEvent]:
    """Newest first."""
    return [event_object(each) for each in registry.job_events(row.tenant, row.id, None, count)]


def _shown(row: Job, events: Sequence[FineTuningJobEvent]) -> Shown:
    progress, spec, last = row.progress, row.spec, Step.last(events)
    if last is not None and status_of(row) in ENDED:  # its row tells only of what came after
        progress = {"stage": "step", "done": last.step, "total": last.total, "loss": last.loss}
    return Shown(
        id=row.id,
        name=spec.get("name", ""),
        method=spec.get("method", ""),
        base=spec.get("base", ""),
        created_at=int(row.created_at.timestamp()),
        status=status_of(row),
        stage=progress.get("stage", ""),
        done=progress.get("done", 0),
        total=progress.get("total", 0),
        loss=progress.get("loss"),
    )


def _files(registry: Registry, tenant: str, ids: list[str]) -> list[StoredFile]:
    """Those that nobody has deleted."""
    found = []
    for each in ids:
        with suppress(Unknown), openai_words():
            found.append(registry.file(tenant, each))
    return found
