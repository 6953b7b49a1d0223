"""Manifests that take long to be read keep the doors open for all others."""

from __future__ import annotations

import asyncio
from threading import Event

import pytest
from rootstock_server.app import wait_in_threads

SLOW = 24


@pytest.fixture
def settings() -> dict[str, object]:
    return {}  # with keys: they are looked up on the way, too


async def test_requests_that_wait_for_storage_hold_up_nobody_else(
    house, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_in_threads()
    key, let_go, reading = house.key("local"), Event(), 0
    get = house.registry.blobs.get

    def slowly(digest: str) -> bytes:
        nonlocal reading
        reading += 1
        assert let_go.wait(60)
        return get(digest)

    async def ask(model: str) -> int:
        body = {"model": model, "prompt": "hi"}
        return (await house.post("/v1/completions", body, headers=key)).status_code

    monkeypatch.setattr(house.registry.blobs, "get", slowly)
    waiting = [asyncio.create_task(ask("a")) for _ in range(SLOW)]
    try:
        await house.eventually(lambda: reading == SLOW, 30)
        assert await asyncio.wait_for(ask("toy"), 30) == 200
        assert (await house.http.get("/livez")).status_code == 200
        assert not any(task.done() for task in waiting)
    finally:
        let_go.set()
    assert await asyncio.gather(*waiting) == [200] * SLOW
