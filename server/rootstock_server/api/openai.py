"""OpenAI's dialect over HTTP: models, completions, chat completions, embeddings.

Translates only; every decision is the handle's. Refuses to know adapters' kinds.
"""

from __future__ import annotations

import asyncio
import base64
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any, cast

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from rootstock_registry import KeyOwner
from rootstock_wire.openai import (
    ChatBody,
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionBody,
    CompletionRequest,
    Embedding,
    EmbeddingRequest,
    Embeddings,
    ModelCard,
    ModelList,
    Usage,
)
from starlette.types import Send

from rootstock_server.api import answers, catalogue
from rootstock_server.api.caller import caller_of
from rootstock_server.api.combine import target_of
from rootstock_server.api.handle import Begun, Embedded, Handle
from rootstock_server.api.refusals import sse, sse_error
from rootstock_server.api.stream import Delta
from rootstock_server.api.target import Target
from rootstock_server.errors import RootstockError, ServerFault

DIGEST_HEADER = "x-rootstock-adapter"


def routes(handle: Handle) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["openai"])

    @router.get("/models")
    async def list_models(request: Request) -> ModelList:
        return await catalogue.model_list(handle, caller_of(request))

    @router.get("/models/{model:path}")
    async def retrieve_model(model: str, request: Request) -> ModelCard:
        return catalogue.card(await handle.resolve(caller_of(request), model))

    @router.post("/completions", response_model=Completion)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        caller = caller_of(request)
        return await generate(handle, caller, await target_of(handle, caller, body), body)

    @router.post("/chat/completions", response_model=ChatCompletion)
    async def chat(body: ChatRequest, request: Request) -> Response:
        caller = caller_of(request)
        return await generate(handle, caller, await target_of(handle, caller, body), body)

    @router.post("/embeddings", response_model=Embeddings)
    async def embed(body: EmbeddingRequest, request: Request) -> Response:
        caller = caller_of(request)
        embedded = await handle.embed(caller, await target_of(handle, caller, body), body)
        as_text = body.encoding_format == "base64"
        return answer(await asyncio.to_thread(_embeddings, embedded, as_text))

    return router


def answer(message: Any) -> Response:
    """A JSON answer that names in its header, too, who made it."""
    return Response(
        message.model_dump_json(),
        media_type="application/json",
        headers={DIGEST_HEADER: message.system_fingerprint},
    )


async def generate(
    handle: Handle, caller: KeyOwner, target: Target, body: CompletionBody | ChatBody
) -> Response:
    """The whole answer, or a stream of it. Raises every refusal before a stream begins."""
    events = handle.generate(caller, target, body)
    if body.stream:
        return EventStream(body, await _begin(events), events)
    async with aclosing(events):
        begun = await _begin(events)
        collected = await answers.collect(begun, body.n or 1, _deltas(events))
    if isinstance(body, CompletionBody):
        return answer(answers.completion(begun, body, collected))
    return answer(answers.chat_completion(begun, body, collected))


Events = AsyncGenerator[Begun | list[Delta]]


async def _begin(events: Events) -> Begun:
    begun = await anext(events)
    assert isinstance(begun, Begun)
    return begun


def _deltas(events: Events) -> AsyncIterator[list[Delta]]:
    """What comes after `Begun`."""
    return cast(AsyncIterator[list[Delta]], events)


class EventStream(StreamingResponse):
    """Server-sent events that end with `[DONE]`, or with an error body where the engine fails.

    However it ends, `source` is closed before this returns: its rows are cancelled.
    """

    def __init__(self, body: CompletionBody | ChatBody, begun: Begun, source: Events) -> None:
        self._source = source
        chunks: answers.CompletionChunks | answers.ChatChunks
        if isinstance(body, CompletionBody):
            chunks = answers.CompletionChunks(begun, body)
        else:
            chunks = answers.ChatChunks(begun, body)
        headers = {DIGEST_HEADER: begun.target.made_by, "cache-control": "no-cache"}
        events = _events(chunks, _deltas(source))
        super().__init__(events, media_type="text/event-stream", headers=headers)

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self._source):
            await super().stream_response(send)


async def _events(
    chunks: answers.CompletionChunks | answers.ChatChunks, batches: AsyncIterator[list[Delta]]
) -> AsyncIterator[bytes]:
    """Framed chunks: those of all deltas that came together leave together."""
    try:
        if opening := _framed(chunks.opening()):
            yield opening
        async for deltas in batches:
            if framed := _framed(chunks.of(delta) for delta in deltas):
                yield framed
        yield _framed(chunks.closing()) + sse("[DONE]")
    except RootstockError as error:
        yield sse_error(error)
    except Exception as error:
        fault = ServerFault("the server failed while answering; its log says why")
        fault.__cause__ = error
        yield sse_error(fault)


def _framed(chunks: Iterable[BaseModel | None]) -> bytes:
    return b"".join(sse(chunk.model_dump_json()) for chunk in chunks if chunk is not None)


def _embeddings(embedded: Embedded, as_text: bool) -> Embeddings:
    data = [
        Embedding(index=index, embedding=_base64(vector) if as_text else vector)
        for index, vector in enumerate(embedded.vectors)
    ]
    return Embeddings(
        data=data,
        model=embedded.target.model,
        system_fingerprint=embedded.target.made_by,
        usage=Usage(prompt_tokens=embedded.prompt_tokens, total_tokens=embedded.prompt_tokens),
    )


def _base64(vector: list[float]) -> str:
    """Little-endian float32, as the SDK decodes it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
