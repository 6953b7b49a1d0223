"""The long forms of what tests/e2e/test_killing shows in short: engines and servers that are killed
or told to stop at random moments, under load. Half an hour.

Not collected by `pytest`: `make soak` names this file.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import httpx
import pytest
from rootstock_registry import Registry

from tests.e2e import conftest as served
from tests.e2e.changing import Killed, free_port
from tests.e2e.killing import DEADLY, Load, kill_engines, poison, references
from tests.e2e.test_serve_process import engines_of

tiny, start_server = served.tiny, served.start_server

ENGINES, POISONED, SERVERS, STOPS = 60, 10, 40, 20
# Loading is most of the time until it is ready; it shares its cores with the clients.
TOLD_S, READY_S = 2.0, 15.0


@pytest.fixture
def seed() -> int:
    """Printed, so that a run that fails can be had again."""
    number = int(os.environ.get("SEED", str(time.time_ns() % 2**32)))
    print(f"\nSEED={number}")
    return number


@pytest.fixture
def home(tmp_path: Path, tiny: dict[str, Path]) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    registry = served.fill(folder, tiny)
    registry.import_peft("local", "loud", tiny["calm"], registry.base("tiny"))
    registry.close()
    return folder


def check_told(load: Load, moments: list[float]) -> float:
    """Who waited when an engine died was answered right, or told in time. The longest time."""
    longest = 0.0
    for moment in moments:
        for each in load.over(moment):
            if each.how != "right":
                longest = max(longest, each.ended - moment)
    how = load.counted()
    assert set(how) <= {"right", "refused", "told"}, how
    assert longest < TOLD_S
    return longest


async def test_sixty_killed_engines(
    home: Path, tiny: dict[str, Path], start_server: Callable[..., served.Server], seed: int
) -> None:
    server = start_server(home, bases=[f"tiny={tiny['tiny']}"])
    async with Load([server.url], references(tiny)).running() as load:
        found = await kill_engines(server, ENGINES, random.Random(seed))
    longest = check_told(load, [killed for killed, _ in found])
    took = [ready for _, ready in found]
    print(
        f"{ENGINES} engines killed under load: {dict(load.counted())}; told within "
        f"{longest:.2f} s; ready again after {median(took):.1f} s, at most {max(took):.1f} s"
    )
    assert max(took) < READY_S
    assert server.stop() == 0


async def test_a_request_that_always_kills_its_engine(
    home: Path,
    tiny: dict[str, Path],
    start_server: Callable[..., served.Server],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    server = start_server(home, bases=[f"tiny={tiny['tiny']}"])
    pids = set()
    async with Load([server.url], references(tiny)).running() as load:
        moments = []
        for _ in range(POISONED):
            moments.append(await poison(server))
            [pid] = engines_of(server.process)
            await asyncio.sleep(2)
            assert engines_of(server.process) == [pid]  # nobody sent it the same again
            pids.add(pid)
    assert len(pids) == POISONED
    longest = check_told(load, moments)
    print(
        f"\n{POISONED} requests that kill their engine: {dict(load.counted())}; all others told "
        f"within {longest:.2f} s, and answered right by the next engine"
    )


def test_forty_killed_servers(
    home: Path, tiny: dict[str, Path], start_server: Callable[..., served.Server], seed: int
) -> None:
    chance, killed = random.Random(seed), Killed(home, tiny["tiny"])
    begun = time.monotonic()
    for number in range(SERVERS):
        killed.round(chance, 6.0, early=bool(number % 2), sidecar=number % 4 > 1)
    known = killed.acknowledged
    print(
        f"{SERVERS} servers killed in {time.monotonic() - begun:.0f} s, none lost: "
        f"{len(known.moves)} moves of an alias, {len(known.jobs)} jobs, of them "
        f"{sum(known.jobs.values())} cancelled, {len(known.imported)} imports"
    )
    (home / "run" / "server.json").unlink(missing_ok=True)
    server = start_server(home, bases=[f"tiny={tiny['tiny']}"])
    body = {"model": "loud@next", "prompt": [20, 30], "max_tokens": 4}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
    registry = Registry(home)
    digest = registry.resolve("local", "loud@next").digest
    registry.close()
    assert answer.json()["system_fingerprint"] == digest
    assert server.stop() == 0
    killed.check()


async def test_two_servers_stopped_in_turns_lose_no_request(
    home: Path,
    tiny: dict[str, Path],
    start_server: Callable[..., served.Server],
    seed: int,
    tmp_path: Path,
) -> None:
    """Clients go to the other one where the first says that it is stopping, or is gone."""
    chance = random.Random(seed)
    homes = [home, tmp_path / "second"]
    homes[1].mkdir()
    served.fill(homes[1], tiny).close()
    ports = [free_port(), free_port()]

    def start(number: int) -> served.Server:
        (homes[number] / "run" / "server.json").unlink(missing_ok=True)
        return start_server(homes[number], bases=[f"tiny={tiny['tiny']}"], port=ports[number])

    servers = [await asyncio.to_thread(start, number) for number in (0, 1)]
    stopped, took = [], []
    async with Load([each.url for each in servers], references(tiny)).running() as load:
        for number in range(STOPS):
            await asyncio.sleep(chance.uniform(0.2, 1.0))
            stopped.append(time.monotonic())
            assert await asyncio.to_thread(servers[number % 2].stop) == 0
            took.append(time.monotonic() - stopped[-1])
            servers[number % 2] = await asyncio.to_thread(start, number % 2)
    how = load.counted()
    print(f"{STOPS} stops in turns: {dict(how)}; stopped within {max(took):.1f} s")
    assert set(how) == {"right"}
