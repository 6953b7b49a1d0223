"""Comparisons over HTTP: one request becomes a fine-tuning job for each variant and seed.

Translates only: the queue is the registry's, the table the sidecar's. Refuses to know methods.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from rootstock_registry import Comparison as Row
from rootstock_registry import KeyOwner
from rootstock_wire.comparisons import (
    Comparison,
    ComparisonRequest,
    ComparisonResult,
    Variant,
    adapter_name,
    budget_words,
    hyperparameters,
    variants_for,
)
from rootstock_wire.fine_tuning import MAX_PAGE, CreateJobRequest
from rootstock_wire.methods import to_message
from rootstock_wire.pages import Page

from rootstock_server.api.caller import caller_of
from rootstock_server.api.fine_tuning_spec import row_of
from rootstock_server.api.handle import Handle
from rootstock_server.api.registry_calls import openai_words
from rootstock_server.errors import BadRequest, UnknownModel


def routes(handle: Handle) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["rootstock"])

    @router.post("/comparisons")
    async def create_comparison(body: ComparisonRequest, request: Request) -> Comparison:
        """All jobs are queued, or none is."""
        caller = caller_of(request, "publisher")
        return _shown(await asyncio.to_thread(_create, handle, caller, body))

    @router.get("/comparisons")
    async def list_comparisons(
        request: Request,
        after: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 20,
    ) -> Page[Comparison]:
        """Newest first."""
        tenant = caller_of(request, "publisher").tenant
        with openai_words("after"):
            found = await asyncio.to_thread(
                handle.registry.comparisons, tenant, limit=limit + 1, after=after
            )
        return Page[Comparison].of([_shown(row) for row in found.data], limit)

    @router.get("/comparisons/{comparison_id}")
    async def retrieve_comparison(comparison_id: str, request: Request) -> Comparison:
        tenant = caller_of(request, "publisher").tenant
        with openai_words("comparison_id"):
            return _shown(
                await asyncio.to_thread(handle.registry.comparison, tenant, comparison_id)
            )

    return router


def _create(handle: Handle, caller: KeyOwner, body: ComparisonRequest) -> Row:
    """Raises BadRequest or Unknown naming the field that cannot be used."""
    base = handle.bases.get(body.model)
    if base is None:
        raise UnknownModel(
            f"model: the base `{body.model}` is not served here; comparisons train on bases: "
            f"{', '.join(sorted(handle.bases))}",
            param="model",
        )
    variants = variants_for(base.card.task, body.methods or [])
    # Every row is made before the first is queued: a field at fault queues nothing.
    rows = [
        (variant.label, seed, {**row_of(handle, caller, _job(body, variant, seed)), "bars": True})
        for seed in range(body.seeds)
        for variant in variants
    ]
    runs = _queued(handle, caller.tenant, rows)
    spec = {
        "model": body.model,
        "methods": [variant.label for variant in variants],
        "seeds": body.seeds,
        "metric": body.metric,
        "budget": budget_words(body.budget),
        "runs": runs,
    }
    return handle.registry.create_comparison(caller.tenant, spec)


def _job(body: ComparisonRequest, variant: Variant, seed: int) -> CreateJobRequest:
    return CreateJobRequest.model_validate(
        {
            "model": body.model,
            "training_file": body.training_file,
            "suffix": adapter_name(body.suffix, variant.label),
            "seed": seed,
            "method": to_message(variant.method, hyperparameters(variant, body.budget)),
        }
    )


def _queued(
    handle: Handle, tenant: str, rows: list[tuple[str, int, dict[str, Any]]]
) -> list[dict[str, Any]]:
    registry = handle.registry
    waiting = handle.limits.training.max_waiting_per_tenant
    if len(rows) > waiting:
        raise BadRequest(
            f"methods: {len(rows)} jobs, and a tenant may have {waiting} waiting: compare fewer "
            "variants or seeds at once",
            param="methods",
        )
    runs: list[dict[str, Any]] = []
    try:
        for label, seed, row in rows:
            with openai_words():
                job = registry.submit_job(tenant, row, max_waiting=waiting)
            runs.append({"label": label, "seed": seed, "job": job.id})
    except BadRequest:
        for run in runs:
            registry.cancel_job(tenant, run["job"])
        raise
    return runs


def _shown(row: Row) -> Comparison:
    spec, ended = row.spec, row.finished_at
    table = row.result if row.result and "entries" in row.result else None
    return Comparison(
        id=row.id,
        created_at=int(row.created_at.timestamp()),
        finished_at=None if ended is None else int(ended.timestamp()),
        status=row.state,
        model=spec["model"],
        methods=spec["methods"],
        seeds=spec["seeds"],
        jobs=[run["job"] for run in spec["runs"]],
        result=None if table is None else ComparisonResult.model_validate(table),
    )
