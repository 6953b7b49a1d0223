"""Engines and whole servers that are killed under load; tests/soak/killing.py does it for long."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.changing import Killed
from tests.e2e.killing import DEADLY, Load, poison, references
from tests.e2e.test_serve_process import engines_of

TOLD_S = 20.0  # the long form says how soon; without being told they would wait for ever


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that are started from now on die of one certain request."""
    folder = tmp_path / "deadly"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(DEADLY)
    others = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{others}")


async def test_engines_that_die_under_load_are_told_and_what_killed_one_never_meets_the_next(
    deadly: None, filled, start_server, tiny: dict[str, Path], tmp_path: Path
) -> None:
    filled(tmp_path).close()
    wanted = references(tiny)
    server = start_server(tmp_path, bases=[f"tiny={tiny['tiny']}"])
    async with Load([server.url], wanted).running() as load:
        await asyncio.sleep(random.uniform(0.2, 0.5))
        killed = await poison(server)
        [pid] = engines_of(server.process)
        answered = load.counted()["right"]
        async with asyncio.timeout(60):
            while load.counted()["right"] < answered + 30:
                await asyncio.sleep(0.02)
        assert engines_of(server.process) == [pid]
        stopped = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.process.wait, 60) == 0
    how = load.counted()
    assert how["told"] + how["refused"] > 0, how
    for each in load.over(killed):
        assert each.how == "right" or each.ended - killed < TOLD_S, each
    for each in load.said:
        # Whoever was taken in before the server was told to stop was answered; later ones found
        # a door that says so, or none.
        assert each.how in ("right", "told", "refused") or each.begun > stopped, each
    assert all(each.how in ("right", "refused") for each in load.over(stopped))


def test_a_server_that_is_killed_loses_nothing_acknowledged_and_leaves_no_process(
    filled, tiny: dict[str, Path], tmp_path: Path
) -> None:
    registry = filled(tmp_path)
    registry.import_peft("local", "loud", tiny["calm"], registry.base("tiny"))
    registry.close()
    killed = Killed(tmp_path, tiny["tiny"])
    killed.round(random.Random(), 0.5, early=False)
    known = killed.acknowledged
    assert known.moves and known.jobs and known.imported
