"""Clients that keep asking a server whose processes are killed, and what each of them was told.

Their references are Hugging Face's and PEFT's own, made before anything is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.e2e.test_hot_swap import greedy
from tests.e2e.test_serve_process import engines_of, gone

CLIENTS = 6
PROMPTS = tuple(tuple(range(start, start + 6)) for start in (20, 60, 100, 140))
LENGTHS = (4, 30, 150)
POISON = 199  # an id that no prompt above has
READY_S = 120.0
# Installed by PYTHONPATH into the engine's process alone: a request that ends it, every time.
DEADLY = f"""
import os, signal, sys
if "rootstock_server.engine.worker" in sys.orig_argv:
    from rootstock_server.engine.runner import Runner
    whole = Runner.forward
    def forward(self, batch):
        if any({POISON} in share.request.command.prompt_ids for share in batch.shares):
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, batch)
    Runner.forward = forward
"""


@dataclass
class Said:
    """One request's end. `how`: right, refused (503 before an answer), told (an error event in a
    stream), unreachable (nobody listened), or what is wrong."""

    begun: float
    ended: float
    how: str


@dataclass
class Load:
    """Clients that ask in turns for everything that `wanted` has an answer of."""

    urls: Sequence[str]
    wanted: dict[tuple[str, tuple[int, ...]], list[int]]
    said: list[Said] = field(default_factory=list)
    stopped: bool = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        clients = [asyncio.create_task(self._keep_asking(seed)) for seed in range(CLIENTS)]
        try:
            yield self
        finally:
            self.stopped = True
            await asyncio.gather(*clients)

    def counted(self) -> Counter[str]:
        return Counter(each.how for each in self.said)

    def over(self, moment: float) -> list[Said]:
        """Those who waited for an answer at that moment."""
        return [each for each in self.said if each.begun < moment < each.ended]

    async def _keep_asking(self, seed: int) -> None:
        chance = random.Random(seed)
        async with contextlib.AsyncExitStack() as stack:
            doors = [
                await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=120))
                for url in self.urls
            ]
            while not self.stopped:
                model, prompt = chance.choice(list(self.wanted))
                body = asked(model, prompt, chance.choice(LENGTHS))
                begun = time.monotonic()
                for door in chance.sample(doors, len(doors)):
                    how = await self._ask(door, body)
                    if how not in ("refused", "unreachable"):
                        break
                self.said.append(Said(begun, time.monotonic(), how))
                if how != "right":
                    await asyncio.sleep(0.1)

    async def _ask(self, door: httpx.AsyncClient, body: dict[str, Any]) -> str:
        tokens: list[int] = []
        try:
            async with door.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    refused = response.status_code == 503 and response.headers["retry-after"]
                    return "refused" if refused else f"status {response.status_code}"
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        event = json.loads(line.removeprefix("data: "))
                        if "error" in event:
                            return "told"
                        for choice in event["choices"]:
                            tokens += choice.get("token_ids") or []
        except httpx.ConnectError:
            return "unreachable"
        except httpx.TransportError as error:
            # A kept connection that was closed before anything of this answer came.
            return "cut" if tokens else f"closed {type(error).__name__}"
        wanted = self.wanted[body["model"], tuple(body["prompt"])][: body["max_tokens"]]
        right = len(tokens) == body["max_tokens"] and tokens[: len(wanted)] == wanted
        return "right" if right else "wrong"


def asked(model: str, prompt: Sequence[int], tokens: int) -> dict[str, Any]:
    return {
        "model": model, "prompt": list(prompt), "stream": True, "max_tokens": tokens,
        "temperature": 0, "ignore_eos": True, "return_token_ids": True,
    }  # fmt: skip


def references(tiny: dict[str, Path]) -> dict[tuple[str, tuple[int, ...]], list[int]]:
    """What the base and two adapters answer, as far as it is clear."""
    wanted = {}
    for name in ("tiny", "loud", "calm"):
        model = AutoModelForCausalLM.from_pretrained(tiny["tiny"])
        if name != "tiny":
            model = PeftModel.from_pretrained(model, tiny[name])
        answers = greedy(model.eval(), PROMPTS, max(LENGTHS))
        wanted |= {(name, prompt): answer for prompt, answer in zip(PROMPTS, answers, strict=True)}
    return wanted


async def eventually(condition: Callable[[], object], seconds: float = READY_S) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def kill_engines(server: Any, kills: int, chance: random.Random) -> list[tuple[float, float]]:
    """Kill the server's engine at random moments: when, and how long until the next was ready."""
    found = []
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        for _ in range(kills):
            await asyncio.sleep(chance.uniform(0.2, 1.5))
            [pid] = engines_of(server.process)
            killed = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            await back(server, http, pid)
            found.append((killed, time.monotonic() - killed))
    return found


async def back(server: Any, http: httpx.AsyncClient, pid: int) -> None:
    """Wait until another engine than `pid` is ready."""
    await eventually(lambda: gone(pid) and engines_of(server.process))
    async with asyncio.timeout(READY_S):
        while (await http.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.02)


async def poison(server: Any) -> float:
    """Send a request that ends the engine. When its caller was told, which is when all were."""
    [pid] = engines_of(server.process)
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        body = asked("tiny", (20, POISON), 4) | {"stream": False}
        response = await http.post("/v1/completions", json=body)
        told = time.monotonic()
        assert response.status_code == 503, response.text
        await back(server, http, pid)
    return told
