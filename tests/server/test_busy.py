"""The server says that it is busy by a file's time, and says nothing when it is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from rootstock_server.busy import tell_when_busy


async def test_the_file_is_touched_while_requests_are_in_flight(tmp_path: Path) -> None:
    in_flight = 0
    telling = asyncio.create_task(tell_when_busy(tmp_path, lambda: in_flight))
    file = tmp_path / "run" / "busy"
    await asyncio.sleep(0.3)
    assert not file.exists()
    in_flight = 1
    await asyncio.sleep(0.5)
    first = file.stat().st_mtime_ns
    await asyncio.sleep(0.5)
    second = file.stat().st_mtime_ns
    assert second > first
    in_flight = 0
    await asyncio.sleep(0.3)
    last = file.stat().st_mtime_ns
    await asyncio.sleep(0.5)
    assert file.stat().st_mtime_ns == last
    telling.cancel()
