"""What is measured: the model's shape, the requests, and the settings of a whole run.

Refuses to know which systems answer the requests and how they are timed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Mode = Literal["base", "same", "mixed"]
MODES: dict[Mode, str] = {
    "base": "base only",
    "same": "one adapter",
    "mixed": "all different",
}


@dataclass(frozen=True)
class Shape:
    """A Llama of these sizes, with an output embedding of its own."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on; written into its results as it stands."""

    name: str  # of the files the results go to
    shape: Shape
    adapters: int  # at least as many as a run has requests, so that all can be different
    least_requests: int  # of one timed run
    waves: int  # requests of one timed run, as a multiple of the concurrency
    rounds: int  # timed runs of each system in each cell
    concurrencies: tuple[int, ...]
    modes: tuple[Mode, ...] = ("base", "same", "mixed")
    ranks: tuple[int, ...] = (8, 16)  # of the adapters, in turn
    prompt_tokens: int = 64
    new_tokens: int = 64
    threads: int = 2  # of the engine and of each peer
    seed: int = 0

    def requests(self, concurrency: int) -> int:
        return max(self.least_requests, self.waves * concurrency)


# 124.7 million parameters; 32 adapters, two waves of 16 requests.
SERVING_CPU_S = Settings(
    name="serving_cpu_s",
    shape=Shape(hidden=768, layers=12, heads=12, kv_heads=4, ffn=2048, vocab=32000),
    adapters=32,
    least_requests=4,
    waves=2,
    rounds=3,
    concurrencies=(1, 8, 16),
)
# Proves that the benchmark runs; its figures mean nothing.
QUICK = Settings(
    name="serving_quick",
    shape=Shape(hidden=64, layers=2, heads=4, kv_heads=2, ffn=128, vocab=512),
    adapters=2,
    least_requests=2,
    waves=1,
    rounds=1,
    concurrencies=(2,),
    prompt_tokens=8,
    new_tokens=8,
)


@dataclass(frozen=True)
class Ask:
    """One request: continue `prompt` greedily, under `adapter` (None: the base alone)."""

    prompt: tuple[int, ...]
    adapter: str | None


@dataclass(frozen=True)
class Run:
    """What one system did with one list of requests; what it does not tell is empty or None."""

    seconds: float
    tokens: int
    first_token_s: tuple[float, ...] = ()  # one per request
    between_tokens_s: tuple[float, ...] = ()  # one per token but the first of each request
    digests: frozenset[str] | None = None  # the versions that the answers name

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


class WrongAnswer(Exception):
    """A system did not do the work it was timed for, so that its time means nothing."""


class System(Protocol):
    """What is compared. `modes` are those it is measured in."""

    @property
    def name(self) -> str: ...

    @property
    def modes(self) -> Sequence[Mode]: ...

    def run(self, asks: Sequence[Ask], concurrency: int) -> Run:
        """Answer all of `asks`, at most `concurrency` at a time. Raises WrongAnswer."""
        ...


def adapter_names(settings: Settings) -> list[str]:
    return [f"a{number:02}" for number in range(settings.adapters)]


def asks(settings: Settings, mode: Mode, count: int, round_number: int) -> list[Ask]:
    """`count` requests; every system of a round gets the same ones.

    In mode `mixed` neighbours never share an adapter: request i has adapter i.
    """
    source = random.Random(f"{settings.seed} {mode} {count} {round_number}")
    names = adapter_names(settings)
    turns: dict[Mode, Sequence[str | None]] = {"base": [None], "same": names[:1], "mixed": names}
    chosen = turns[mode]
    # The lowest ids are special tokens in most vocabularies.
    return [
        Ask(
            tuple(source.randrange(3, settings.shape.vocab) for _ in range(settings.prompt_tokens)),
            chosen[number % len(chosen)],
        )
        for number in range(count)
    ]
