"""A database that stays away makes the server not ready, and changes nothing about being alive."""

from __future__ import annotations

import asyncio

import pytest
from rootstock_registry.errors import Unavailable
from rootstock_server import database_watch


@pytest.fixture
def settings() -> dict[str, object]:
    return {"no_auth": True}


async def test_readiness_falls_when_what_the_database_said_last_no_longer_counts(
    house, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, away = 0, False
    ask = house.registry.ask_database

    def asked_again() -> None:
        nonlocal asked
        asked += 1
        ask()
        if away:
            raise Unavailable("the registry's database does not answer")

    async def statuses() -> list[int]:
        paths = ("/livez", "/readyz", "/health")
        return [(await house.http.get(path)).status_code for path in paths]

    monkeypatch.setattr(database_watch, "AGAIN_S", 0.02)
    monkeypatch.setattr(house.handle.database, "_ask", asked_again)
    assert await statuses() == [200, 200, 200]  # also where nobody watches
    watching = asyncio.create_task(house.handle.database.run())
    await house.eventually(lambda: asked > 1)
    away, before = True, asked
    await house.eventually(lambda: asked > before + 1)
    assert await statuses() == [200, 200, 200]  # its last word still counts
    monkeypatch.setattr(database_watch, "GRACE_S", 0.05)
    await house.eventually(lambda: not house.handle.ready)
    monkeypatch.setattr(database_watch, "AGAIN_S", 60.0)
    await asyncio.sleep(0.05)
    before = asked
    for _ in range(20):
        assert await statuses() == [200, 503, 503]
    assert asked == before  # no probe asks the database
    watching.cancel()


async def test_the_server_is_ready_again_when_the_database_is_back(
    house, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = True

    def ask() -> None:
        if away:
            raise Unavailable("the registry's database does not answer")

    monkeypatch.setattr(database_watch, "AGAIN_S", 0.02)
    monkeypatch.setattr(database_watch, "GRACE_S", 1.0)
    monkeypatch.setattr(house.handle.database, "_ask", ask)
    watching = asyncio.create_task(house.handle.database.run())
    await house.eventually(lambda: not house.handle.ready, 10)
    away = False
    await house.eventually(lambda: house.handle.ready, 10)
    watching.cancel()
