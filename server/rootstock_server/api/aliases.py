"""Aliases over HTTP: what they mean, moving them under gates, going back, their history.

Translates only. Refuses to know which requests a moved alias changes.
"""

from __future__ import annotations

from asyncio import to_thread
from typing import Annotated

from fastapi import APIRouter, Query, Request
from rootstock_registry import KeyOwner, gates
from rootstock_wire.pages import Page
from rootstock_wire.registry import Alias, AliasMove, Deleted, MoveAlias, RollBackAlias

from rootstock_server.api import registry_shapes as shapes
from rootstock_server.api.adapters import Listed
from rootstock_server.api.caller import caller_of
from rootstock_server.api.handle import Handle
from rootstock_server.api.registry_shapes import PageQuery
from rootstock_server.errors import BadRequest, Unknown

PLACE = "/aliases/{adapter}/{alias}"


class AliasQuery(PageQuery):
    """`adapter`: only this one's aliases."""

    adapter: str | None = None


def routes(handle: Handle) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["registry"])
    _read(router, handle)
    _move(router, handle)
    return router


async def _number(handle: Handle, caller: KeyOwner, adapter: str, alias: str) -> int:
    summary = await to_thread(handle.registry.adapter, caller.tenant, adapter)
    if alias not in summary.aliases:
        raise Unknown(f"adapter {adapter!r} has no alias {alias[:80]!r}")
    return summary.aliases[alias]


def _read(router: APIRouter, handle: Handle) -> None:
    @router.get("/aliases")
    async def list_aliases(request: Request, page: Annotated[AliasQuery, Query()]) -> Page[Alias]:
        caller = caller_of(request)
        found = await to_thread(
            handle.registry.alias_page, caller.tenant, page.adapter,
            after=page.after, limit=page.limit,
        )  # fmt: skip
        data = [shapes.alias(each.adapter, each.alias, each.number) for each in found.data]
        return Page.whole(data, has_more=found.has_more)

    @router.get(PLACE)
    async def get_alias(adapter: str, alias: str, request: Request) -> Alias:
        number = await _number(handle, caller_of(request), adapter, alias)
        return shapes.alias(adapter, alias, number)

    @router.get(PLACE + "/history")
    async def alias_history(
        adapter: str, alias: str, request: Request, page: Listed
    ) -> Page[AliasMove]:
        """Newest first."""
        caller = caller_of(request)
        moves = await to_thread(handle.registry.alias_history, caller.tenant, adapter, alias)
        if not moves:
            await _number(handle, caller, adapter, alias)
        return shapes.page_of(shapes.moves(moves), page)


def _move(router: APIRouter, handle: Handle) -> None:
    @router.post(PLACE)
    async def move_alias(adapter: str, alias: str, body: MoveAlias, request: Request) -> Alias:
        caller = caller_of(request, "publisher")
        demanded = await to_thread(gates.parse, body.require)
        if demanded.signed and handle.trust.key is None:
            raise BadRequest(
                "require: this server trusts no key; start it with --require-signature, or "
                "promote with: rootstock promote --require signature --public-key PUB.pem",
                param="require",
            )
        await to_thread(
            handle.registry.promote, caller.tenant, f"{adapter}:{body.version}", alias,
            expected=body.expected, gates=demanded, key=handle.trust.key,
        )  # fmt: skip
        return shapes.alias(adapter, alias, body.version)

    @router.post(PLACE + "/rollback")
    async def roll_back_alias(
        adapter: str, alias: str, body: RollBackAlias, request: Request
    ) -> Alias:
        """To what it meant before, as far back as that can still be served."""
        caller = caller_of(request, "publisher")
        version = await to_thread(
            handle.registry.rollback, caller.tenant, adapter, alias, expected=body.expected
        )
        return shapes.alias(adapter, alias, version.number)

    @router.delete(PLACE)
    async def delete_alias(
        adapter: str, alias: str, request: Request, force: bool = False
    ) -> Deleted:
        """With `force`, a route that goes through it does not keep it."""
        caller = caller_of(request, "publisher")
        await to_thread(handle.registry.delete_alias, caller.tenant, adapter, alias, force=force)
        return Deleted(id=f"{adapter}@{alias}", object="alias")
