"""How soon an engine's process is started again: at once, unless it dies before it is of use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rootstock_server.engine import supervisor
from rootstock_server.engine.request import Setup
from rootstock_server.engine.supervisor import FIRST_RETRY_S, LAST_RETRY_S, Supervisor

SETUP = Setup(address="", base_path="", card="", home="", dtype="", limits="")
DEATHS = 9


@pytest.fixture
def waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it means to wait before each start; the process ends as soon as it is told what
    to be."""
    program = tmp_path / "dies"
    program.write_text("#!/bin/sh\nread line\nexit 3\n")
    program.chmod(0o700)
    slept: list[float] = []
    sleep = asyncio.sleep

    async def at_once(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(supervisor.sys, "executable", str(program))
    monkeypatch.setattr(supervisor.asyncio, "sleep", at_once)
    return slept


async def die(useful: bool) -> list[int]:
    """The exit codes that were told."""
    codes: list[int] = []
    enough = asyncio.Event()

    def died(code: int) -> bool:
        codes.append(code)
        if len(codes) == DEATHS:
            enough.set()
        return useful

    one = Supervisor(SETUP, 1, died)
    await one.start()
    await asyncio.wait_for(enough.wait(), 30)
    await one.stop()
    return codes[:DEATHS]


async def test_one_that_had_answered_is_started_again_at_once_however_often_it_dies(waits) -> None:
    assert await die(useful=True) == [3] * DEATHS
    assert set(waits[:DEATHS]) == {FIRST_RETRY_S}


async def test_one_that_dies_before_it_answers_waits_longer_each_time_up_to_a_limit(waits) -> None:
    assert await die(useful=False) == [3] * DEATHS
    doubled = [min(FIRST_RETRY_S * 2**n, LAST_RETRY_S) for n in range(DEATHS)]
    assert waits[:DEATHS] == doubled[: len(waits)]
