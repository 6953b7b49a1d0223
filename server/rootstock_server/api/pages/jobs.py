"""`/jobs` and `/jobs/{job_id}`: the first state of each page, whole without its script.

Translates only: what a job is, `fine_tuning_objects.py` says. Refuses to change anything.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from rootstock_registry import Job, Registry
from rootstock_registry.records_work import StoredFile
from rootstock_wire.fine_tuning import MAX_PAGE, FineTuningJob

from rootstock_server.api.caller import caller_of
from rootstock_server.api.fine_tuning_objects import event_object, job_object, settings_of
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
    def of(cls, data: dict[str, Any] | None) -> Step:
        assert data is not None, "an event with metrics has them in its data"
        step = data.get("step", 0)
        return cls(step, max(step, data.get("total_steps", 0)), data["train_loss"])


@dataclass(frozen=True)
class Shown:
    """A job as a line of the list: `done` of `total` in its present `stage`."""

    job: FineTuningJob
    name: str
    method: str
    stage: str
    done: int
    total: int
    loss: float | None

    @property
    def live(self) -> bool:
        return self.job.status not in ENDED


def routes(handle: Handle) -> APIRouter:
    router = APIRouter(tags=["pages"], include_in_schema=False)
    script = (STATIC / "jobs.js").read_bytes()
    style = (STATIC / "jobs.css").read_bytes()

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
        return Response(script, media_type="text/javascript", headers=HEADERS)

    @router.get("/jobs.css")
    async def jobs_style() -> Response:
        return Response(style, media_type="text/css", headers=HEADERS)

    return router


def _list(registry: Registry, tenant: str, after: str | None) -> Response:
    found = registry.jobs(tenant, after, JOBS_SHOWN + 1)
    jobs = [_shown(registry, job) for job in found[:JOBS_SHOWN]]
    comparisons = registry.comparisons(tenant, limit=COMPARISONS_SHOWN).data if not after else []
    return page(
        "jobs.html",
        jobs=jobs,
        older=jobs[-1].job.id if len(found) > JOBS_SHOWN else None,
        comparisons=comparisons,
        live=any(each.live for each in jobs),
    )


def _one(registry: Registry, tenant: str, job_id: str) -> Response:
    row = registry.tenant_job(tenant, job_id)
    events = [event_object(each) for each in registry.job_events(tenant, job_id, None, MAX_PAGE)]
    shown = _shown(registry, row)
    return page(
        "job.html",
        shown=shown,
        job=shown.job,
        settings=settings_of(shown.method, row.spec.get("hyperparameters", {})),
        last=next((Step.of(each.data) for each in events if each.type == "metrics"), None),
        events=events[:EVENTS_SHOWN],
        files=_files(registry, tenant, shown.job.result_files),
    )


def _shown(registry: Registry, row: Job) -> Shown:
    progress: dict[str, Any] = row.progress
    return Shown(
        job=job_object(registry, row),
        name=row.spec.get("name", ""),
        method=row.spec.get("method", ""),
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
