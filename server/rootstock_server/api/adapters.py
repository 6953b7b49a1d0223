"""The registry's bases, adapters and versions over HTTP: list, get, yank, evaluate, delete.

Translates only; what a tenant may see and change is the registry's business. Refuses to know how a
version is served.
"""

from __future__ import annotations

from asyncio import to_thread
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from rootstock_registry import KeyOwner
from rootstock_wire.pages import Page
from rootstock_wire.registry import (
    Adapter,
    AdapterVersion,
    AdapterVersionDetail,
    AddEvaluation,
    Deleted,
    RegisteredBase,
    YankVersion,
)

from rootstock_server.api import registry_shapes as shapes
from rootstock_server.api.caller import caller_of
from rootstock_server.api.handle import Handle
from rootstock_server.api.registry_shapes import PageQuery

Listed = Annotated[PageQuery, Query()]
Number = Annotated[int, Path(ge=1, le=999_999_999)]


def routes(handle: Handle) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["registry"])
    _bases(router, handle)
    _adapters(router, handle)
    _versions(router, handle)
    return router


async def detail(handle: Handle, caller: KeyOwner, name: str, number: int) -> AdapterVersionDetail:
    """The caller's version, and what came after it. Raises NotFound."""
    version = await to_thread(handle.registry.look_at, caller.tenant, f"{name}:{number}")
    proof = handle.registry.evidence
    later = await to_thread(proof.evaluations, caller.tenant, version.digest)
    signed = await to_thread(proof.signatures, version.digest)
    return shapes.detail(version, later, [each.key_id for each in signed])


def _bases(router: APIRouter, handle: Handle) -> None:
    @router.get("/bases")
    async def list_bases(request: Request, page: Listed) -> Page[RegisteredBase]:
        cards = await to_thread(handle.registry.bases)
        return shapes.page_of([shapes.base(card) for card in cards], page)

    @router.get("/bases/{name}")
    async def get_base(name: str, request: Request) -> RegisteredBase:
        return shapes.base(await to_thread(handle.registry.base, name))


def _adapters(router: APIRouter, handle: Handle) -> None:
    @router.get("/adapters")
    async def list_adapters(request: Request, page: Listed) -> Page[Adapter]:
        caller = caller_of(request)
        found = await to_thread(
            handle.registry.adapter_page, caller.tenant, after=page.after, limit=page.limit
        )
        return Page.whole([shapes.adapter(each) for each in found.data], has_more=found.has_more)

    @router.get("/adapters/{name}")
    async def get_adapter(name: str, request: Request) -> Adapter:
        caller = caller_of(request)
        return shapes.adapter(await to_thread(handle.registry.adapter, caller.tenant, name))

    @router.delete("/adapters/{name}")
    async def delete_adapter(name: str, request: Request, force: bool = False) -> Deleted:
        """All its versions. With `force`, aliases and routes do not keep it."""
        caller = caller_of(request, "admin")
        await to_thread(handle.registry.delete_adapter, caller.tenant, name, force=force)
        return Deleted(id=name, object="adapter")


def _versions(router: APIRouter, handle: Handle) -> None:
    place = "/adapters/{name}/versions"

    @router.get(place)
    async def list_versions(name: str, request: Request, page: Listed) -> Page[AdapterVersion]:
        """Newest first."""
        caller, after = caller_of(request), shapes.number_after(page, name)
        await to_thread(handle.registry.adapter, caller.tenant, name)
        found = await to_thread(
            handle.registry.version_page, caller.tenant, name, after=after, limit=page.limit
        )
        return Page.whole([shapes.version(each) for each in found.data], has_more=found.has_more)

    @router.get(place + "/{number}")
    async def get_version(name: str, number: Number, request: Request) -> AdapterVersionDetail:
        return await detail(handle, caller_of(request), name, number)

    @router.post(place + "/{number}/yank")
    async def yank_version(
        name: str, number: Number, body: YankVersion, request: Request
    ) -> AdapterVersionDetail:
        caller = caller_of(request, "publisher")
        await to_thread(handle.registry.yank, caller.tenant, f"{name}:{number}", body.reason)
        return await detail(handle, caller, name, number)

    @router.post(place + "/{number}/unyank")
    async def unyank_version(name: str, number: Number, request: Request) -> AdapterVersionDetail:
        caller = caller_of(request, "publisher")
        await to_thread(handle.registry.unyank, caller.tenant, f"{name}:{number}")
        return await detail(handle, caller, name, number)

    @router.post(place + "/{number}/evaluations")
    async def evaluate_version(
        name: str, number: Number, body: AddEvaluation, request: Request
    ) -> AdapterVersionDetail:
        caller = caller_of(request, "publisher")
        ref, dataset = f"{name}:{number}", body.dataset_digest
        await to_thread(
            handle.registry.evidence.evaluate, caller.tenant, ref, body.metrics, dataset
        )
        return await detail(handle, caller, name, number)

    @router.delete(place + "/{number}")
    async def delete_version(
        name: str, number: Number, request: Request, force: bool = False
    ) -> Deleted:
        """With `force`, aliases that mean it and routes that name it do not keep it."""
        caller, ref = caller_of(request, "admin"), f"{name}:{number}"
        await to_thread(handle.registry.delete_version, caller.tenant, ref, force=force)
        return Deleted(id=ref, object="adapter.version")
