"""The long forms of what test_crash, test_faults and test_gc show in short: some minutes.

Not collected by `pytest`: `make soak` names this file.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry

from tests.registry.crashing import at_every_call, at_every_message, at_random_instants
from tests.registry.racing import race
from tests.registry.scenes import Scene, Scenes

Head = Callable[[float], NewPart]
SCENES = ["publishing", "publishing_first", "collecting", "deleting", "migrating"]
PUBLISHES = 2000
KILLS = 200


@pytest.fixture
def scenes(tmp_path: Path, card: BaseCard, head: Head, lineage: Lineage) -> Scenes:
    return Scenes(tmp_path / "scenes", card, head, lineage)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("fault", ["signal=KILL", "error=EIO", "error=ENOSPC", "error=EROFS"])
def test_every_call_that_changes_the_disk(
    scenes: Scenes, home: Path, name: str, fault: str
) -> None:
    scene: Scene = getattr(scenes, name)()
    start = time.monotonic()
    runs = list(at_every_call(scene, home, fault))
    kinds = Counter(point.partition(":")[0] for point, _ in runs)
    acknowledged = sum(bool(outcome.acknowledged) for _, outcome in runs)
    print(
        f"\n{name}, {fault}: {len(runs)} runs in {time.monotonic() - start:.0f} s, "
        f"{acknowledged} acknowledged; {dict(kinds)}"
    )
    if fault == "signal=KILL":
        assert {outcome.status for _, outcome in runs} == {-signal.SIGKILL}


def test_every_message_to_postgresql(home: Path, empty_database: str, scenes: Scenes) -> None:
    died = at_every_message(home, empty_database, scenes.publish, step=1)
    print(f"\nkilled at {died} messages")
    assert died > 20


def test_two_hundred_random_instants(home: Path, scenes: Scenes) -> None:
    acknowledged = at_random_instants(home, scenes.publish, KILLS, seed=int(time.time()))
    print(f"\n{KILLS} kills, {acknowledged} acknowledged versions, none lost")
    assert acknowledged >= KILLS / 4


def test_publishes_race_collections(
    opened: Callable[[], Registry], card: BaseCard, head: Head, lineage: Lineage
) -> None:
    report = race(opened, card, head, lineage, publishes=PUBLISHES, threads=8, gc_every_s=0.05)
    print(f"\n{report}")
    assert report.lost == []
    assert report.versions == report.published == PUBLISHES
    assert report.swept > 0
