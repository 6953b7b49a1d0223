"""Damage that an engine or a door reports is confirmed by the front end's own read, then marked.

What cannot be confirmed marks nothing. Refuses to know what a mark looks like, and who asked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import structlog
from rootstock_registry import Registry
from rootstock_registry.audit import acting_as
from rootstock_registry.errors import CorruptBlob, Quarantined, RegistryError

from rootstock_server.errors import CorruptAdapter
from rootstock_server.telemetry import Telemetry

log = structlog.get_logger(__name__)

Name = tuple[str, str]  # a tenant, and a reference as it writes it


class Quarantine:
    """One per server; lives on one event loop."""

    def __init__(self, registry: Registry, telemetry: Telemetry) -> None:
        self._registry, self._telemetry = registry, telemetry
        self._reading: dict[Name, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def watch(self, names: Collection[Name]) -> AsyncIterator[None]:
        """Around what is answered with these versions. Where one of them is said to be damaged,
        who asked is told so after it was marked: nobody's next request reads it again."""
        try:
            yield
        except (CorruptAdapter, CorruptBlob) as error:
            if not isinstance(error, Quarantined):
                await asyncio.gather(*(self._confirm(name) for name in names))
            raise

    async def _confirm(self, name: Name) -> None:
        """Read it once for all who wait for that. A caller who leaves does not end the reading."""
        if name not in self._reading:
            self._reading[name] = asyncio.create_task(self._inspect(name))
            self._reading[name].add_done_callback(lambda _: self._reading.pop(name))
        await asyncio.shield(self._reading[name])

    async def _inspect(self, name: Name) -> None:
        with acting_as(f"server:{socket.gethostname()}"):
            try:
                found = await asyncio.to_thread(self._registry.inspect, *name)
            except RegistryError as error:
                log.warning("reported damage cannot be confirmed", version=name[1], why=str(error))
                return
        if found.damage is None:
            log.warning("reported damage is not in the stored bytes", version=found.digest)
            return
        self._telemetry.quarantined(found.quarantined)
        log.error("a version is quarantined", version=found.digest, damage=found.damage)
