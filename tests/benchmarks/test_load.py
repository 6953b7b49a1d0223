"""The load generator against a server on a real socket that knows what it sent."""

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
from fastapi.responses import JSONResponse, StreamingResponse

from benchmarks.load import Served
from benchmarks.workload import Ask, WrongAnswer

TOKENS = 5


class Door:
    """A server that streams `TOKENS` tokens, and how it was used."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[dict[str, object]] = []
        self.now = self.most = 0  # requests at once
        self.four = asyncio.Barrier(4)


def _event(*ids: int) -> bytes:
    choices = [{"index": 0, "text": "", "token_ids": list(ids)}]
    return b"data: " + json.dumps({"choices": choices}).encode() + b"\n\n"


async def _answer(door: Door, script: str) -> AsyncIterator[bytes]:
    door.now += 1
    door.most = max(door.most, door.now)
    yield b": a comment\n\n" + _event(1)[:7]  # an event in two pieces
    await asyncio.sleep(0.02)
    if script == "four":  # nobody gets an answer before four have asked
        await asyncio.wait_for(door.four.wait(), 10)
    yield _event(1)[7:] + _event(2, 3)  # two events in one piece, two tokens in one event
    if script == "fails":
        yield b'data: {"error": {"message": "the engine died"}}\n\n'
        return
    if script != "short":
        yield _event(4) + _event(5)
    yield b'data: {"choices": [], "usage": {}}\n\n'
    door.now -= 1
    if script != "cut":
        yield b"data: [DONE]\n\n"


def _app(door: Door) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/completions")
    async def complete(request: Request):  # type: ignore[no-untyped-def]
        body = await request.json()
        door.bodies.append(body)
        if body["model"] == "unknown":
            return JSONResponse({"error": {"message": "no such model"}}, status_code=404)
        headers = {"x-rootstock-adapter": f"sha256:{body['model']}"}
        return StreamingResponse(_answer(door, body["model"]), headers=headers)

    return app


@pytest.fixture
def door() -> Iterator[Door]:
    listener = socket.create_server(("127.0.0.1", 0))
    door = Door(f"http://127.0.0.1:{listener.getsockname()[1]}")
    server = uvicorn.Server(uvicorn.Config(_app(door), log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield door
    server.should_exit = True
    thread.join(timeout=10)


def asks(count: int, adapter: str | None = None) -> list[Ask]:
    return [Ask((7, 8, 9), adapter) for _ in range(count)]


def test_every_token_of_every_request_is_counted_once(door: Door) -> None:
    run = Served(door.url, "base", TOKENS).run(asks(7), concurrency=3)
    assert run.tokens == 7 * TOKENS
    assert len(run.first_token_s) == 7
    assert len(run.between_tokens_s) == 7 * (TOKENS - 1)
    assert all(seconds >= 0.02 for seconds in run.first_token_s)
    assert run.seconds >= 3 * 0.02  # three waves


def test_the_loop_is_closed_at_the_asked_concurrency(door: Door) -> None:
    Served(door.url, "four", TOKENS).run(asks(12), concurrency=4)
    assert door.most == 4
    assert len(door.bodies) == 12


def test_the_adapter_is_the_model_and_none_is_the_base(door: Door) -> None:
    served = Served(door.url, "base", TOKENS)
    run = served.run([*asks(1), *asks(1, "a00"), *asks(1, "a01")], concurrency=1)
    assert [body["model"] for body in door.bodies] == ["base", "a00", "a01"]
    assert run.digests == {"sha256:base", "sha256:a00", "sha256:a01"}
    assert door.bodies[0]["prompt"] == [7, 8, 9]
    assert door.bodies[0]["ignore_eos"] is True


@pytest.mark.parametrize(
    ("adapter", "complaint"),
    [
        ("short", "3 tokens came, not 5"),
        ("fails", "the engine died"),
        ("cut", r"without \[DONE\]"),
        ("unknown", "HTTP 404.*no such model"),
    ],
)
def test_an_answer_that_is_not_whole_is_no_measurement(
    door: Door, adapter: str, complaint: str
) -> None:
    with pytest.raises(WrongAnswer, match=complaint):
        Served(door.url, "base", TOKENS).run(asks(1, adapter), concurrency=1)


def test_a_server_that_is_not_there_is_said_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(WrongAnswer, match=f"{port} does not answer"):
        Served(f"http://127.0.0.1:{port}", "base", TOKENS).run(asks(4), concurrency=2)
