"""Versions that stay resident because the operator said so, followed as their aliases move.

Refuses to know how an engine makes room.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

import structlog
from rootstock_registry import Registry
from rootstock_registry.errors import RegistryError

from rootstock_server.engine.client import EngineClient
from rootstock_server.errors import Untrusted
from rootstock_server.tenancy.trust import Trust

AGAIN_S = 1.0
LOCAL = "local"  # the tenant of a name that says none

log = structlog.get_logger(__name__)


async def follow(
    names: Sequence[str], registry: Registry, engines: Mapping[str, EngineClient], trust: Trust
) -> None:
    """Tell each engine, once a second, what to keep: one that was restarted must hear it, too."""
    by_fingerprint = {engine.card.fingerprint: engine for engine in engines.values()}
    unknown: set[str] = set()
    while True:
        pinned: dict[str, list[str]] = defaultdict(list)
        for name in names:
            try:
                version = await asyncio.to_thread(registry.resolve, LOCAL, name)
                await trust.check(version.digest)
            except (RegistryError, Untrusted) as error:
                if name not in unknown:
                    log.warning(
                        "a pinned name cannot be served yet",
                        name=name,
                        why=str(error),
                    )
                unknown.add(name)
                continue
            unknown.discard(name)
            pinned[version.base_fingerprint].append(version.digest)
        for fingerprint, engine in by_fingerprint.items():
            engine.pin(pinned[fingerprint])
        await asyncio.sleep(AGAIN_S)
