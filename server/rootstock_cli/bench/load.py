"""A load generator over HTTP: streams completions, counts their tokens, times each one.

Closed loop: every worker sends its next request when its last answer is whole. Open loop: requests
leave at given times, whatever has come back. Refuses to know what serves.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import aiohttp

from rootstock_cli.bench.traffic import Ask

REQUEST_TIMEOUT_S = 600.0
DIGEST_HEADER = "x-rootstock-adapter"


@dataclass(frozen=True)
class Answer:
    """One request's timeline, in seconds of one clock; with an `error` it is not whole."""

    model: str
    due: float  # when it was to leave
    arrivals: tuple[float, ...] = ()  # one per token
    digest: str = ""  # of the version that answered, where the server says it
    error: str = ""

    @property
    def first_token_s(self) -> float:
        return self.arrivals[0] - self.due

    @property
    def between_tokens_s(self) -> list[float]:
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return [later - earlier for earlier, later in pairs]


@dataclass(frozen=True)
class Load:
    """All answers of one load, and how long it took from the first request to the last token."""

    answers: tuple[Answer, ...]
    seconds: float

    @property
    def whole(self) -> list[Answer]:
        return [answer for answer in self.answers if not answer.error]

    @property
    def errors(self) -> Counter[str]:
        return Counter(answer.error for answer in self.answers if answer.error)

    @property
    def tokens(self) -> int:
        """Of whole answers: a part of an answer is of no use to its caller."""
        return sum(len(answer.arrivals) for answer in self.whole)

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds

    @property
    def first_token_s(self) -> list[float]:
        return [answer.first_token_s for answer in self.whole]

    @property
    def between_tokens_s(self) -> list[float]:
        return [gap for answer in self.whole for gap in answer.between_tokens_s]


class Caller:
    """One HTTP client of one server, as an async context. Its answers carry what went wrong.

    aiohttp, because it reads HTTP in C: what the load generator takes, the server beside it lacks.
    """

    def __init__(self, url: str, api_key: str | None = None, connections: int = 0) -> None:
        """At most `connections` at a time; 0 is any number: an open loop waits for nobody."""
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._session = aiohttp.ClientSession(
            url,
            headers=headers,
            connector=aiohttp.TCPConnector(limit=connections),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        )

    async def __aenter__(self) -> Self:
        await self._session.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def answer(self, ask: Ask, due: float | None = None) -> Answer:
        """Stream one answer to its end. Never raises for what the server does or does not do."""
        due = time.perf_counter() if due is None else due
        arrivals: list[float] = []
        digest, error = "", ""
        try:
            digest = await self._stream(ask, arrivals)
            if len(arrivals) != ask.new_tokens:
                error = f"{len(arrivals)} tokens came, not {ask.new_tokens}"
        except (aiohttp.ClientError, TimeoutError) as fault:
            error = f"no answer: {str(fault) or type(fault).__name__}"
        except _Wrong as fault:
            error = str(fault)
        return Answer(ask.model, due, tuple(arrivals), digest, error)

    async def _stream(self, ask: Ask, arrivals: list[float]) -> str:
        body = {
            "model": ask.model,
            "prompt": ask.prompt,
            "max_tokens": ask.new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "stream": True,
        }
        async with self._session.post("/v1/completions", json=body) as response:
            if response.status != 200:
                raise _Wrong(f"HTTP {response.status}: {_said(await response.read())}")
            async for event in _events(response):
                if "error" in event:
                    raise _Wrong(f"error in the stream: {_message(event)}")
                arrived = time.perf_counter()
                for choice in event["choices"]:
                    arrivals += [arrived] * _tokens(choice)
            return response.headers.get(DIGEST_HEADER, "")


def closed_loop(
    url: str, asks: Sequence[Ask], concurrency: int, api_key: str | None = None
) -> Load:
    """Answer all of `asks`, always `concurrency` of them at a time while there are as many."""

    async def run() -> Load:
        left, answers = iter(asks), list[Answer]()
        async with Caller(url, api_key, connections=concurrency) as caller:
            begun = time.perf_counter()
            async with asyncio.TaskGroup() as workers:
                for _ in range(concurrency):
                    workers.create_task(_work(caller, left, answers))
            return Load(tuple(answers), time.perf_counter() - begun)

    return asyncio.run(run())


def open_loop(
    url: str, asks: Sequence[Ask], due_s: Sequence[float], api_key: str | None = None
) -> Load:
    """Send request i at second `due_s[i]`; its waiting is counted from then."""

    async def at(caller: Caller, ask: Ask, due: float) -> Answer:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        return await caller.answer(ask, due)

    async def run() -> Load:
        async with Caller(url, api_key) as caller:
            begun = time.perf_counter()
            pairs = zip(asks, due_s, strict=True)
            answers = await asyncio.gather(*(at(caller, ask, begun + due) for ask, due in pairs))
            return Load(tuple(answers), time.perf_counter() - begun)

    return asyncio.run(run())


async def _work(caller: Caller, left: Iterator[Ask], answers: list[Answer]) -> None:
    for ask in left:
        answers.append(await caller.answer(ask))


class _Wrong(Exception):
    """The server answered something else than the tokens that were asked for."""


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event, up to `[DONE]`; without it the answer was cut off."""
    rest = b""
    async for piece in response.content.iter_any():
        *whole, rest = (rest + piece).split(b"\n\n")
        for event in whole:
            if event == b"data: [DONE]":
                return
            if event.startswith(b"data: "):
                yield json.loads(event.removeprefix(b"data: "))
    raise _Wrong("the stream ended without [DONE]")


def _tokens(choice: dict[str, Any]) -> int:
    if (ids := choice.get("token_ids")) is None:
        raise _Wrong("the server does not know return_token_ids: its tokens cannot be counted")
    return len(ids)


def _said(body: bytes) -> str:
    try:
        return _message(json.loads(body))
    except ValueError:
        return body.decode(errors="replace")[:200]


def _message(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    return str(error.get("message", error) if isinstance(error, dict) else error or body)[:200]
