"""Plays a scene again and again, with a fault at each of its system calls or at random instants."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rootstock_registry import Registry

from tests.registry.scenes import Scene, free_lease, whole
from tests.registry.tracing import Acknowledge, Outcome, forked, points, traced


def at_every_call(
    scene: Scene, home: Path, fault: str, most: int | None = None
) -> Iterator[tuple[str, Outcome]]:
    """For every call that changes the disk, one run with `fault` at it; where there are more than
    `most`, for so many of them, evenly spread.

    After each run the scene's check has passed, on the disk as the run left it.
    """

    def work(acknowledge: Acknowledge) -> None:
        acknowledge(scene.work(home))

    scene.fresh(home)
    plain = traced(work)
    assert plain.status == 0, plain
    every = list(points(plain.calls))
    for name, number in every[:: -(-len(every) // most) if most else 1]:
        scene.fresh(home)
        outcome = traced(work, f"{name}:{fault}:when={number}")
        registry = Registry(home)
        try:
            scene.check(registry, next(iter(outcome.acknowledged), None))
        except BaseException as error:
            error.add_note(f"{scene.name}: {fault} at {name} number {number}: {outcome}")
            raise
        registry.close()
        yield f"{name}:{number}", outcome


def at_every_message(
    home: Path, url: str, publish: Callable[[Registry, float], str], step: int
) -> int:
    """Publish and collect on PostgreSQL in a child that dies at the n-th message to the server;
    n grows by `step` until it outlives its work. How often it died."""
    acknowledged: set[str] = set()
    for message in range(1, 10_000, step):

        def work(acknowledge: Acknowledge, message: int = message) -> None:
            registry = Registry(home, url)
            registry.blobs.put(b"stray %d" % message)
            acknowledge(publish(registry, float(message)))
            registry.gc(grace_s=0)

        outcome = traced(work, f"sendto:signal=KILL:when={message}")
        acknowledged |= set(outcome.acknowledged)
        registry = Registry(home, url)
        assert acknowledged <= set(whole(registry))
        acknowledged.add(publish(registry, float(message)))  # again: no lock is in the way
        free_lease(registry)
        registry.close()
        if outcome.status == 0:
            return message // step
        assert outcome.status == -signal.SIGKILL, outcome
    raise AssertionError("it never ended")


def at_random_instants(
    home: Path, publish: Callable[[Registry, float], str], kills: int, seed: int
) -> int:
    """Publish without end in a child that dies at a random instant; `kills` times on one home.

    Every acknowledged version is checked after every kill. How many there were.
    """
    chance = random.Random(seed)
    acknowledged: set[str] = set()
    Registry(home).close()
    for round_ in range(kills):
        share = chance.uniform(0.01, 1)

        def work(acknowledge: Acknowledge, round_: int = round_, share: float = share) -> None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, wherever it is
            if round_ % 4 == 0:
                signal.setitimer(signal.ITIMER_REAL, 0.05 * share)
            registry = Registry(home)
            if round_ % 4:
                begun = time.monotonic()
                acknowledge(publish(registry, float(round_ * 10_000)))
                # A few publishes later, however fast this machine is.
                signal.setitimer(signal.ITIMER_REAL, 4 * share * (time.monotonic() - begun))
            for number in range(1, 10_000):
                acknowledge(publish(registry, float(round_ * 10_000 + number)))
                registry.gc(grace_s=0)  # dies as well, now and then

        status, lines, errors = forked(work)
        assert status == -signal.SIGALRM, errors
        acknowledged |= set(lines)
        registry = Registry(home)
        assert acknowledged <= set(whole(registry))
        free_lease(registry)
        registry.close()
    return len(acknowledged)
