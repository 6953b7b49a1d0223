"""What a caller may name in `model`: the served bases, and the tenant's adapters on them.

Refuses to know how any of them is loaded.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from rootstock_registry import KeyOwner, Version
from rootstock_registry.errors import CorruptBlob, NotFound
from rootstock_wire.openai import ModelCard, ModelList

from rootstock_server.api.handle import Handle
from rootstock_server.api.target import Target

STARTED = int(time.time())


async def model_list(handle: Handle, caller: KeyOwner) -> ModelList:
    """Bases first, then each adapter whose base is served, by a name that resolves."""
    cards = [card(Target(name, base)) for name, base in handle.bases.items()]
    for name, version in await asyncio.to_thread(_versions, handle, caller.tenant):
        base = handle.base_of(version)
        if base is not None:
            cards.append(card(Target(name, base, version)))
    return ModelList(data=cards)


def _versions(handle: Handle, tenant: str) -> list[tuple[str, Version]]:
    names = [
        adapter.name if "prod" in adapter.aliases else f"{adapter.name}:{adapter.latest}"
        for adapter in handle.registry.adapters(tenant)
    ]
    found = []
    for name in names:
        with suppress(NotFound, CorruptBlob):  # deleted since the names were read; or damaged
            found.append((name, handle.registry.resolve(tenant, name)))
    return found


def card(target: Target) -> ModelCard:
    """OpenAI's model object with vLLM's extras; `root` is the digest that answers."""
    version = target.version
    return ModelCard(
        id=target.model,
        created=int(version.created_at.timestamp()) if version else STARTED,
        owned_by=version.tenant if version else "rootstock",
        root=target.digest,
        parent=target.base.card.name if version else None,
        max_model_len=target.base.card.context_length,
    )
