"""Asks every few seconds whether the registry's database answers, so that no probe has to.

Refuses to know what follows from it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog
from rootstock_registry.errors import RegistryError
from rootstock_registry.last_said import GOOD_FOR_S

AGAIN_S = 2.0
# As long as what the database said last still counts: after that, hardly an adapter can be asked.
GRACE_S = GOOD_FOR_S

log = structlog.get_logger(__name__)


class DatabaseWatch:
    """`ask` raises RegistryError where the database does not answer. Lives on one event loop."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._answered_at: float | None = None  # None: nobody watches
        self._silent = False

    @property
    def away(self) -> bool:
        """Whether the database has said nothing for longer than the grace."""
        answered = self._answered_at
        return answered is not None and time.monotonic() - answered > GRACE_S

    async def run(self) -> None:
        self._answered_at = time.monotonic()  # the registry has just been opened
        while True:
            try:
                await asyncio.to_thread(self._ask)
            except RegistryError as error:
                if not self._silent:
                    log.warning("the database does not answer", why=error.message)
                self._silent = True
            else:
                self._answered_at = time.monotonic()
                if self._silent:
                    log.info("the database answers again")
                self._silent = False
            await asyncio.sleep(AGAIN_S)
