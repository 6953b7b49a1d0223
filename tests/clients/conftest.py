"""A small HTTP server on loopback that says what a test needs to hear, breakage included."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

DIGEST = "sha256:" + "ab" * 32
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


class Loopback:
    """The server's address, and what it saw."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[dict[str, object]] = []
        self.keys: list[str | None] = []
        self.stream_cancelled = threading.Event()


def _event(text: str | None = None, finish: str | None = None) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    chunk = {"id": "c", "created": 1, "model": "m", "system_fingerprint": DIGEST}
    return f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"


async def _scripted(script: str, seen: Loopback) -> AsyncIterator[str]:
    """`script` is the model asked for: what the stream shall do after its first piece."""
    yield _event("Hel")
    if script == "breaks":
        return
    if script == "fails":
        error = {"message": "the engine restarted", "type": "service_unavailable_error"}
        yield f"data: {json.dumps({'error': {**error, 'param': None, 'code': 'overloaded'}})}\n\n"
        return
    try:
        if script == "endless":
            await asyncio.sleep(3600)
    except asyncio.CancelledError:
        seen.stream_cancelled.set()
        raise
    yield _event("lo")
    yield _event(finish="stop")
    usage = {"id": "c", "created": 1, "model": "m", "system_fingerprint": DIGEST, "choices": []}
    yield f"data: {json.dumps({**usage, 'usage': USAGE})}\n\n"
    yield "data: [DONE]\n\n"


def _app(seen: Loopback) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> StreamingResponse:
        body = await request.json()
        seen.bodies.append(body)
        headers = {"x-rootstock-adapter": DIGEST}
        events = _scripted(body["model"], seen)
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)

    @app.post("/v1/completions")
    async def complete(request: Request) -> JSONResponse:
        body = await request.json()
        seen.bodies.append(body)
        seen.keys.append(request.headers.get("authorization"))
        if body["model"] == "busy":
            error = {"message": "the queue is full", "type": "service_unavailable_error"}
            answer = {"error": {**error, "param": None, "code": "overloaded"}}
            return JSONResponse(answer, status_code=503, headers={"Retry-After": "2"})
        choices = [{"index": 0, "text": " world", "finish_reason": "stop"}]
        head = {"id": "c", "created": 1, "model": body["model"], "system_fingerprint": DIGEST}
        return JSONResponse({**head, "choices": choices, "usage": USAGE, "from_the_future": 1})

    @app.get("/v1/models")
    async def elsewhere() -> PlainTextResponse:
        return PlainTextResponse("welcome to another program")

    @app.post("/v1/embeddings")
    async def proxy_error() -> PlainTextResponse:
        return PlainTextResponse("bad gateway", status_code=502)

    return app


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    listener = socket.create_server(("127.0.0.1", 0))
    seen = Loopback(f"http://127.0.0.1:{listener.getsockname()[1]}")
    config = uvicorn.Config(_app(seen), log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield seen
    server.should_exit = True
    thread.join(timeout=60)
