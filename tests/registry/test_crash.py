"""Killed at any step, a publish is whole or absent, and what was acknowledged stays.

Each publish runs in a forked process that kills itself (SIGKILL) before or after its n-th fsync,
rename or commit. Page cache survives a kill, so this tests the order of steps, not the disk.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry
from sqlalchemy import event

Head = Callable[[float], NewPart]
Publish = Callable[[Registry, float], str]


@pytest.fixture
def publish(card: BaseCard, head: Head, lineage: Lineage) -> Publish:
    def make(registry: Registry, value: float) -> str:
        version = registry.publish(
            "local", "triage", card, [head(value)], lineage=lineage, promote="prod"
        )
        return version.digest

    return make


class DiesAt:
    """Counts the points where a crash matters, and kills this process at the n-th."""

    def __init__(self, point: int) -> None:
        self.left = point

    def tick(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            self.tick()
            result = function(*arguments)
            self.tick()
            return result

        return call


def in_child(work: Callable[[Callable[[str], None]], None]) -> tuple[int, list[str]]:
    """Run `work(acknowledge)` in a fork; its exit status, and the lines it acknowledged."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work(lambda line: os.write(writing, f"{line}\n".encode()) and None)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as stream:
        lines = stream.read().split()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lines


def publish_and_die(home: Path, publish: Publish, value: float, point: int) -> tuple[int, set[str]]:
    def work(acknowledge: Callable[[str], None]) -> None:
        registry = Registry(home)
        fault = DiesAt(point)
        os.fsync = fault.around(os.fsync)  # type: ignore[assignment]
        os.replace = fault.around(os.replace)  # type: ignore[assignment]
        event.listen(registry._database.writes, "commit", fault.tick)
        digest = publish(registry, value)
        fault.tick()
        acknowledge(digest)

    status, lines = in_child(work)
    return status, set(lines)


def whole_versions(home: Path) -> set[str]:
    """The digests of all visible versions, after reading every byte of each."""
    registry = Registry(home)
    versions = registry.versions("local", "triage")
    for version in versions:
        for part in version.manifest.parts:
            assert len(registry.blobs.get(part.blob)) == part.size
    assert [version.number for version in versions] == list(range(1, len(versions) + 1))
    if versions:
        assert registry.resolve("local", "triage").number == len(versions)
    registry.close()
    return {version.digest for version in versions}


def test_killed_at_every_step_a_publish_is_whole_or_absent(home: Path, publish: Publish) -> None:
    Registry(home).close()
    acknowledged: set[str] = set()
    points = 0
    while True:
        points += 1
        status, lines = publish_and_die(home, publish, float(points), points)
        acknowledged |= lines
        visible = whole_versions(home)
        assert acknowledged <= visible
        if status == 0:
            break
        assert status == -signal.SIGKILL
        registry = Registry(home)
        digest = publish(registry, float(points))  # again: no wreck is in the way
        registry.close()
        acknowledged.add(digest)
        assert whole_versions(home) == acknowledged
    # Two blobs (four syncs or renames each, before and after), the commit, the answer.
    assert points > 16


def test_killed_at_random_no_acknowledged_version_is_lost(home: Path, publish: Publish) -> None:
    Registry(home).close()
    acknowledged: set[str] = set()
    chance = random.Random(0)
    for round_ in range(8):
        delay = chance.uniform(0.01, 0.08)

        def work(
            acknowledge: Callable[[str], None], round_: int = round_, delay: float = delay
        ) -> None:
            registry = Registry(home)
            acknowledge(publish(registry, -1.0 - round_))
            signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, wherever it is
            signal.setitimer(signal.ITIMER_REAL, delay)
            for number in range(10_000):
                acknowledge(publish(registry, float(round_ * 10_000 + number)))

        status, lines = in_child(work)
        assert status == -signal.SIGALRM
        acknowledged |= set(lines)
        assert acknowledged <= whole_versions(home)
    assert len(acknowledged) >= 8


def test_a_writer_killed_inside_its_transaction_does_not_block_the_next(
    home: Path, publish: Publish
) -> None:
    Registry(home).close()

    def work(_: Callable[[str], None]) -> None:
        registry = Registry(home)
        with registry._database.writes.begin() as connection:
            connection.exec_driver_sql("INSERT INTO tenants VALUES ('ghost', 0)")
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_child(work)[0] == -signal.SIGKILL
    start = time.monotonic()
    registry = Registry(home)
    publish(registry, 1.0)
    assert time.monotonic() - start < 5
    assert registry.tenants() == ["local"]
    registry.close()
