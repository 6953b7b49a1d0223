"""Tells training jobs when requests are in flight, by touching a file that they look at.

Refuses to know who looks, and whether anybody does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

AGAIN_S = 0.1
# Whoever looks takes a touch of the last second for a busy server; a fifth of it is often enough.
TOUCH_S = 0.2


async def tell_when_busy(home: Path, in_flight: Callable[[], int]) -> None:
    """Touch `run/busy` in `home` while there are requests in flight."""
    file = home / "run" / "busy"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        if in_flight():
            file.touch()
            await asyncio.sleep(TOUCH_S)
        else:
            await asyncio.sleep(AGAIN_S)
