"""Rootstock's own routes: classify with many heads at once, and ask a task by its name.

Translates only; every decision is the handle's. Refuses to know routes' weights.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from rootstock_wire.native import Classification, ClassifyBody, ClassifyRequest, TaskBody

from rootstock_server.api.caller import caller_of
from rootstock_server.api.combine import heads_of
from rootstock_server.api.handle import Handle
from rootstock_server.api.openai import answer, generate


def routes(handle: Handle) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["rootstock"])

    @router.post("/classify", response_model=Classification)
    async def classify(body: ClassifyRequest, request: Request) -> Response:
        caller = caller_of(request)
        return answer(await handle.classify(caller, await heads_of(handle, caller, body), body))

    @router.post("/tasks/{task}", response_model=None)
    async def ask_task(task: str, body: TaskBody, request: Request) -> Response:
        """As chat/completions (`messages`), completions (`prompt`) or classify (`input`)."""
        caller = caller_of(request)
        target = await handle.route(caller, task, body.user)
        if isinstance(body, ClassifyBody):
            return answer(await handle.classify(caller, [target], body))
        return await generate(handle, caller, target, body)

    return router
