"""Killed at any step or instant, work is whole or absent, and what was acknowledged stays.

strace finds every call that changes the disk, and kills the process there. The same is
done to publish with no tracer: the process kills itself around the steps' own functions.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry
from sqlalchemy import event

from tests.registry.crashing import at_every_call, at_every_message, at_random_instants
from tests.registry.scenes import Scene, Scenes, whole
from tests.registry.tracing import Acknowledge, can_trace, forked

Head = Callable[[float], NewPart]
# `make soak` takes all points and more kills.
POINTS = 16
KILLS = 40


@pytest.fixture
def scenes(tmp_path: Path, card: BaseCard, head: Head, lineage: Lineage) -> Scenes:
    return Scenes(tmp_path / "scenes", card, head, lineage)


@pytest.mark.skipif(not can_trace(), reason="strace is not here or may not attach")
@pytest.mark.parametrize(
    "name", ["publishing", "publishing_first", "collecting", "deleting", "migrating"]
)
def test_killed_at_calls_that_change_the_disk_work_is_whole_or_absent(
    scenes: Scenes, home: Path, name: str
) -> None:
    scene: Scene = getattr(scenes, name)()
    runs = [outcome.status for _, outcome in at_every_call(scene, home, "signal=KILL", POINTS)]
    assert set(runs) == {-signal.SIGKILL}
    assert len(runs) >= 8


@pytest.mark.skipif(not can_trace(), reason="strace is not here or may not attach")
def test_killed_at_messages_to_postgresql_work_is_whole_or_absent(
    home: Path, empty_database: str, scenes: Scenes
) -> None:
    assert at_every_message(home, empty_database, scenes.publish, step=4) > 5


def test_killed_at_random_instants_no_acknowledged_version_is_lost(
    home: Path, scenes: Scenes
) -> None:
    assert at_random_instants(home, scenes.publish, KILLS, seed=0) >= KILLS / 4


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


def test_killed_at_every_step_a_publish_is_whole_or_absent(home: Path, scenes: Scenes) -> None:
    scene = scenes.publishing()
    for point in range(1, 1000):
        scene.fresh(home)

        def work(acknowledge: Acknowledge, point: int = point) -> None:
            registry = Registry(home)
            fault = DiesAt(point)
            os.fsync = fault.around(os.fsync)  # type: ignore[assignment]
            os.replace = fault.around(os.replace)  # type: ignore[assignment]
            event.listen(registry._database.writes, "commit", fault.tick)
            digest = scenes.publish(registry, 3.0)
            fault.tick()
            acknowledge(digest)

        status, lines, errors = forked(work)
        registry = Registry(home)
        scene.check(registry, next(iter(lines), None))
        registry.close()
        if status == 0:
            break
        assert status == -signal.SIGKILL, errors
    # One new blob (four syncs or renames, before and after), another found, the commit, the answer.
    assert point > 12


def test_a_writer_killed_inside_its_transaction_does_not_block_the_next(
    home: Path, scenes: Scenes
) -> None:
    Registry(home).close()

    def work(_: Acknowledge) -> None:
        registry = Registry(home)
        with registry._database.writes.begin() as connection:
            connection.exec_driver_sql("INSERT INTO tenants VALUES ('ghost', 0)")
            os.kill(os.getpid(), signal.SIGKILL)

    assert forked(work)[0] == -signal.SIGKILL
    start = time.monotonic()  # SQLite would wait 15 s for a lock that is held
    registry = Registry(home)
    digest = scenes.publish(registry, 1.0)
    assert time.monotonic() - start < 14
    assert registry.tenants() == ["local"]
    assert whole(registry) == [digest]
    registry.close()
