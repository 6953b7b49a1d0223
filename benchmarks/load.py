"""A closed-loop load generator over HTTP: streams answers, counts their tokens, times each one.

Every worker sends its next request when its last answer is whole. Refuses to know what serves.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.workload import MODES, Ask, Run, WrongAnswer

REQUEST_TIMEOUT_S = 600.0
DIGEST_HEADER = "x-rootstock-adapter"


@dataclass(frozen=True)
class Answer:
    """One request's timeline, in seconds of the same clock."""

    sent: float
    arrivals: tuple[float, ...]  # one per token
    digest: str


class Served:
    """A running server, asked over HTTP with streaming, as callers do."""

    name = "rootstock"
    modes = tuple(MODES)

    def __init__(self, url: str, base: str, new_tokens: int) -> None:
        self._url, self._base, self._new_tokens = url, base, new_tokens

    def run(self, asks: Sequence[Ask], concurrency: int) -> Run:
        try:
            return asyncio.run(self._run(asks, concurrency))
        except ExceptionGroup as group:  # of the workers; the first to fail has ended them all
            raise group.exceptions[0] from None

    async def _run(self, asks: Sequence[Ask], concurrency: int) -> Run:
        left, answers = iter(asks), list[Answer]()
        limits = httpx.Limits(max_connections=concurrency)
        async with httpx.AsyncClient(
            base_url=self._url, limits=limits, timeout=REQUEST_TIMEOUT_S
        ) as client:
            begun = time.perf_counter()
            async with asyncio.TaskGroup() as workers:
                for _ in range(concurrency):
                    workers.create_task(self._work(client, left, answers))
            seconds = time.perf_counter() - begun
        return _run_of(answers, seconds)

    async def _work(
        self, client: httpx.AsyncClient, left: Iterator[Ask], answers: list[Answer]
    ) -> None:
        for ask in left:
            try:
                answers.append(await self._answer(client, ask))
            except httpx.HTTPError as error:
                raise WrongAnswer(f"{self._url} does not answer: {error!r}") from error

    async def _answer(self, client: httpx.AsyncClient, ask: Ask) -> Answer:
        body = {
            "model": ask.adapter or self._base,
            "prompt": ask.prompt,
            "max_tokens": self._new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "stream": True,
        }
        sent, arrivals = time.perf_counter(), list[float]()
        async with client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                raise WrongAnswer(f"{body['model']}: HTTP {response.status_code}: {text}")
            digest = response.headers.get(DIGEST_HEADER, "")
            async for event in _events(response):
                if "error" in event:
                    raise WrongAnswer(f"{body['model']}: {event['error']}")
                arrived = time.perf_counter()
                for choice in event["choices"]:
                    arrivals += [arrived] * len(choice["token_ids"])
        if len(arrivals) != self._new_tokens:
            raise WrongAnswer(
                f"{body['model']}: {len(arrivals)} tokens came, not {self._new_tokens}"
            )
        return Answer(sent, tuple(arrivals), digest)


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each server-sent event, up to `[DONE]`; without it the answer was cut off."""
    rest = b""
    async for piece in response.aiter_bytes():
        *whole, rest = (rest + piece).split(b"\n\n")
        for event in whole:
            if event == b"data: [DONE]":
                return
            if event.startswith(b"data: "):
                yield json.loads(event.removeprefix(b"data: "))
    raise WrongAnswer("the stream ended without [DONE]")


def _run_of(answers: Sequence[Answer], seconds: float) -> Run:
    return Run(
        seconds=seconds,
        tokens=sum(len(answer.arrivals) for answer in answers),
        first_token_s=tuple(answer.arrivals[0] - answer.sent for answer in answers),
        between_tokens_s=tuple(
            later - earlier
            for answer in answers
            for earlier, later in zip(answer.arrivals, answer.arrivals[1:], strict=False)
        ),
        digests=frozenset(answer.digest for answer in answers),
    )
