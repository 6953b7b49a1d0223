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
from rootstock_cli.bench.load import closed_loop, open_loop
from rootstock_cli.bench.traffic import Ask

TOKENS = 5


class Door:
    """A server that streams `TOKENS` tokens, and how it was used."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.bodies: list[dict[str, object]] = []
        self.now = self.most = 0  # requests at once
        self.four = asyncio.Barrier(4)


def _event(*ids: int) -> bytes:
    choices = [{"index": 0, "text": "", "token_ids": list(ids)} if ids else {"text": "word"}]
    return b"data: " + json.dumps({"choices": choices}).encode() + b"\n\n"


async def _answer(door: Door, script: str) -> AsyncIterator[bytes]:
    door.now += 1
    door.most = max(door.most, door.now)
    yield b": a comment\n\n" + _event(1)[:7]  # an event in two pieces
    await asyncio.sleep(0.02)
    if script == "four":  # nobody gets an answer before four have asked
        await asyncio.wait_for(door.four.wait(), 60)
    yield _event(1)[7:] + _event(2, 3)  # two events in one piece, two tokens in one event
    if script == "plain":
        yield _event()
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
    thread.join(timeout=60)


def asks(count: int, model: str = "base") -> list[Ask]:
    return [Ask((7, 8, 9), model, TOKENS) for _ in range(count)]


def test_every_token_of_every_request_is_counted_once(door: Door) -> None:
    load = closed_loop(door.url, asks(7), concurrency=3)
    assert load.tokens == 7 * TOKENS
    assert len(load.first_token_s) == 7
    assert len(load.between_tokens_s) == 7 * (TOKENS - 1)
    assert all(seconds >= 0.02 for seconds in load.first_token_s)
    assert load.seconds >= 3 * 0.02  # three waves
    assert not load.errors


def test_the_loop_is_closed_at_the_asked_concurrency(door: Door) -> None:
    closed_loop(door.url, asks(12, "four"), concurrency=4)
    assert door.most == 4
    assert len(door.bodies) == 12


def test_the_open_loop_waits_for_no_answer(door: Door) -> None:
    load = open_loop(door.url, asks(4, "four"), [0.0, 0.01, 0.02, 0.03])
    assert load.tokens == 4 * TOKENS
    assert door.most == 4


def test_waiting_in_an_open_loop_counts_from_when_the_request_was_due(door: Door) -> None:
    load = open_loop(door.url, asks(2), [0.0, 0.2])
    first, second = load.answers
    assert second.due - first.due == pytest.approx(0.2)
    assert load.seconds >= 0.2 + 0.02
    assert second.first_token_s >= 0.02


def test_what_is_asked_is_greedy_and_of_a_fixed_length(door: Door) -> None:
    load = closed_loop(door.url, [*asks(1), *asks(1, "a00")], concurrency=1)
    assert [body["model"] for body in door.bodies] == ["base", "a00"]
    assert {answer.digest for answer in load.answers} == {"sha256:base", "sha256:a00"}
    wanted = {"prompt": [7, 8, 9], "ignore_eos": True, "temperature": 0, "max_tokens": TOKENS}
    assert wanted.items() <= door.bodies[0].items()


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ("short", "3 tokens came, not 5"),
        ("fails", "error in the stream: the engine died"),
        ("plain", "the server does not know return_token_ids: its tokens cannot be counted"),
        ("cut", "the stream ended without [DONE]"),
        ("unknown", "HTTP 404: no such model"),
    ],
)
def test_an_answer_that_is_not_whole_is_an_error_and_not_a_measurement(
    door: Door, model: str, complaint: str
) -> None:
    load = closed_loop(door.url, [*asks(2, model), *asks(1)], concurrency=1)
    assert load.errors == {complaint: 2}
    assert load.tokens == TOKENS
    assert len(load.first_token_s) == 1


def test_a_server_that_is_not_there_is_an_error_of_every_request() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and nobody else's meanwhile, but it does not listen
        load = closed_loop(f"http://127.0.0.1:{deaf.getsockname()[1]}", asks(4), concurrency=2)
    assert not load.whole
    assert sum(load.errors.values()) == 4
    assert all(words.startswith("no answer: ") for words in load.errors)
