"""Who asks what, and when: random prompts, models by a power law, arrivals by a Poisson process.

Refuses to know who answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

FIRST_ID = 3  # the lowest ids are special tokens in most vocabularies


@dataclass(frozen=True)
class Ask:
    """One request: continue `prompt` greedily under `model` by exactly `new_tokens` tokens."""

    prompt: tuple[int, ...]
    model: str
    new_tokens: int


def prompt(tokens: int, vocab: int, source: Random) -> tuple[int, ...]:
    """`tokens` random ids below `vocab`, none of them special."""
    return tuple(source.randrange(FIRST_ID, vocab) for _ in range(tokens))


def by_power_law(models: Sequence[str], exponent: float, count: int, source: Random) -> list[str]:
    """`count` draws in which the k-th model has a share proportional to `k ** -exponent` (Zipf).

    Exponent 0 gives all of them the same share.
    """
    return source.choices(models, popularity(len(models), exponent), k=count)


def popularity(models: int, exponent: float) -> list[float]:
    """The share of each of `models`, the most popular first; they sum to 1."""
    weights = [rank**-exponent for rank in range(1, models + 1)]
    return [weight / sum(weights) for weight in weights]


def poisson(rate: float, count: int, source: Random) -> list[float]:
    """The seconds at which `count` requests come, at `rate` per second, independent of answers.

    The gaps are exponentially distributed, so that the number in any interval is Poisson.
    """
    return list(accumulate(source.expovariate(rate) for _ in range(count)))
