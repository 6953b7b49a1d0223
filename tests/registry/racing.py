"""Publishes from several threads against collections that spare nothing, and what came of them."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry
from rootstock_registry.errors import RegistryError

# Publishes of one thread, at most, between a content's first put and its publish.
AHEAD = 20


@dataclass(frozen=True)
class Report:
    """`lost` are acknowledged versions that are not there whole; `versions` those that are."""

    published: int
    versions: int
    lost: list[str]
    collections: int
    swept: int
    seconds: float


def race(
    opened: Callable[[], Registry],
    card: BaseCard,
    head: Callable[[float], NewPart],
    lineage: Lineage,
    *,
    publishes: int,
    threads: int,
    gc_every_s: float,
) -> Report:
    """Each content is first stored with no row to name it, as a publish that was killed leaves it,
    some publishes before its own: the collector is after just those blobs when that one begins."""
    registries = [opened() for _ in range(threads + 1)]
    over = threading.Event()
    swept: list[int] = []
    start = time.monotonic()

    def collect() -> None:
        while not over.is_set():
            swept.append(registries[-1].gc(grace_s=0).swept)
            over.wait(gc_every_s)

    def publish(values: range) -> list[str]:
        registry = registries[values.start % threads]
        ahead = random.Random(values.start)
        digests = []
        for value in values:
            early = value + threads * ahead.randrange(AHEAD)
            registry.blobs.put(head(float(early)).data)
            part = head(float(value))
            version = registry.publish("local", "triage", card, [part], lineage=lineage)
            digests.append(version.digest)
        return digests

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        with ThreadPoolExecutor(threads) as pool:
            shares = [range(first, publishes, threads) for first in range(threads)]
            digests = list(itertools.chain(*pool.map(publish, shares)))
    finally:
        over.set()
        collector.join()
    seconds = time.monotonic() - start
    whole, lost = _inspect(opened(), digests)
    return Report(len(digests), whole, lost, len(swept), sum(swept), seconds)


def _inspect(registry: Registry, digests: list[str]) -> tuple[int, list[str]]:
    lost = []
    for digest in digests:
        try:
            for part in registry.version(digest).manifest.parts:
                registry.blobs.get(part.blob)
        except RegistryError:
            lost.append(digest)
    return len(registry.versions("local", "triage")), lost
