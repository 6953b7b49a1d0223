"""Probes and metrics: what answers without a key, and therefore names nobody.

Refuses to know requests.
"""

from __future__ import annotations

from fastapi import APIRouter, Response

from rootstock_server.api.handle import Handle


def routes(handle: Handle) -> APIRouter:
    router = APIRouter(tags=["probes"])

    @router.get("/livez")
    async def live() -> Response:
        """200 while every engine is heard of or loading; not touched by load, stopping, or a
        database that is away."""
        return Response(status_code=200 if handle.alive else 503)

    @router.get("/readyz")
    @router.get("/health")
    async def ready() -> Response:
        """200 while every base is loaded, the database is there or was moments ago, and the
        server is not stopping."""
        return Response(status_code=200 if handle.ready else 503)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(
            handle.telemetry.exposition(), media_type="text/plain; version=1.0.0; charset=utf-8"
        )

    return router
