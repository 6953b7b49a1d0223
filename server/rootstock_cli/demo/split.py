"""The demo's routes: one task, split between two versions, for two tenants made for it.

Refuses to compute shares: it counts who was answered by which version.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from rootstock_cli.demo.catalogue import FIRST_NAMES
from rootstock_cli.demo.making import Voices
from rootstock_cli.demo.stage import Stage
from rootstock_cli.demo.texts import LETTER
from rootstock_cli.failures import Refused
from rootstock_cli.registry import SHOWN_DIGEST

if TYPE_CHECKING:
    from rootstock_registry import Version

TASK = "reply"
SPLITS = {"north": (90, 10), "south": (50, 50)}
USERS = tuple(name.lower() for name in FIRST_NAMES[:40])
AT_ONCE = 16


class Met(NamedTuple):
    """Which digest answered a user, both times that they asked."""

    first: str
    second: str


def split_tasks(stage: Stage, voices: Voices) -> None:
    """Each tenant owns both versions and splits its task between them, its own way."""
    stage.chapter("One task, split between two versions, for two tenants")
    stage.say(
        f"Tenants north and south each own both versions. {len(USERS)} users ask "
        f"each tenant's task twice, with their name as `user`."
    )
    table = Table("tenant", "version", "digest", "weight", "users answered")
    for tenant, weights in SPLITS.items():
        versions = [_copied(stage, tenant, each) for each in (voices.formal, voices.better)]
        routed = dict(zip((each.ref for each in versions), weights, strict=True))
        stage.registry.set_route(tenant, TASK, routed)
        met = asyncio.run(_ask_all(stage, tenant))
        counts = _counted(tenant, met, {each.digest for each in versions})
        for version, weight in zip(versions, weights, strict=True):
            digest = version.digest[:SHOWN_DIGEST]
            answered = f"{counts[version.digest]} of {len(USERS)}"
            table.add_row(tenant, version.ref, digest, f"{weight} %", answered)
        message = {"role": "user", "content": LETTER}
        body = {"messages": [message], "user": USERS[0], "temperature": 0}
        stage.remember_post(f"ask {tenant}'s task", f"/v1/tasks/{TASK}", body, tenant)
    stage.console.print(table)
    stage.say(
        "Every user met the same version both times. Both tenants' digests are the same because "
        "their content is: the weights are stored once."
    )


def _copied(stage: Stage, tenant: str, version: Version) -> Version:
    """The same weights as the tenant's own version, with its origin in the lineage."""
    from rootstock_adapters.kinds import parse_spec
    from rootstock_registry import NewPart

    registry = stage.registry
    parts = [
        NewPart(parse_spec(part.kind, part.config), registry.blobs.get(part.blob))
        for part in version.manifest.parts
    ]
    lineage = version.manifest.lineage.model_copy(
        update={"parent": version.digest, "source": f"copy of {version.tenant}/{version.ref}"}
    )
    return registry.publish(
        tenant,
        version.name,
        stage.cards["demo"],
        parts,
        lineage=lineage,
        evaluation=version.manifest.evaluation,
    )


async def _ask_all(stage: Stage, tenant: str) -> dict[str, Met]:
    from rootstock_client import AsyncClient

    gate = asyncio.Semaphore(AT_ONCE)
    message = {"role": "user", "content": LETTER}

    async with AsyncClient(stage.server.url, stage.keys[tenant]) as client:

        async def ask(user: str) -> str:
            async with gate:
                # One token is enough to learn which version answers.
                answer = await client.task(TASK, messages=[message], user=user, max_tokens=1)
            return answer.system_fingerprint

        async def twice(user: str) -> Met:
            return Met(await ask(user), await ask(user))

        return dict(zip(USERS, await asyncio.gather(*map(twice, USERS)), strict=True))


def _counted(tenant: str, met: dict[str, Met], expected: set[str]) -> Counter[str]:
    for user, digests in met.items():
        if digests.first != digests.second:
            raise Refused(f"{tenant}: user {user} met two versions; a route must be sticky")
    counts = Counter(digests.first for digests in met.values())
    if not counts.keys() <= expected:
        raise Refused(f"{tenant}: a version answered that the route does not name")
    return counts
