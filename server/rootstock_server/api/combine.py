"""Versions that act together in one request: resolved, and checked against one another.

Refuses to know how they act; what only their weights can tell, the engine refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rootstock_registry import KeyOwner, Version
from rootstock_wire.fields import AdapterUse
from rootstock_wire.native import ClassifyRequest
from rootstock_wire.openai import ChatRequest, CompletionRequest, EmbeddingRequest

from rootstock_server.api.handle import Handle
from rootstock_server.api.target import Target, changes_pass, specs_before_pass
from rootstock_server.errors import AdapterMismatch, BadRequest


async def target_of(
    handle: Handle, caller: KeyOwner, body: CompletionRequest | ChatRequest | EmbeddingRequest
) -> Target:
    """What `model` and `adapters` mean together. Raises UnknownModel, AdapterMismatch, BadRequest.

    Beside `adapters`, `model` names the base.
    """
    target = await handle.resolve(caller, body.model)
    if not body.adapters:
        return target
    if target.version is not None:
        raise BadRequest(
            f"model: names the base ({target.base.card.name}) where `adapters` is given; "
            f"put {body.model} among the adapters",
            param="model",
        )
    return await _with(handle, caller, target, body.adapters)


async def heads_of(handle: Handle, caller: KeyOwner, body: ClassifyRequest) -> list[Target]:
    """The targets of `models`, the pass of each with `adapters` beside what it brings itself."""
    targets = await handle.resolve_all(caller, body.models, "models")
    return [await _with(handle, caller, target, body.adapters or []) for target in targets]


async def _with(
    handle: Handle, caller: KeyOwner, target: Target, uses: Sequence[AdapterUse]
) -> Target:
    limit = handle.limits.max_adapters_per_request
    if len(uses) > limit:
        raise BadRequest(
            f"adapters: at most {limit} act together on this server, not {len(uses)}",
            param="adapters",
        )
    taken = _claims(target.version, target.model) if target.version else {}
    beside: list[tuple[Version, float]] = []
    for index, use in enumerate(uses):
        where = f"adapters[{index}]"
        other = await handle.resolve(caller, use.model, f"{where}.model")
        version = _fit(other, target, f"{where}.model")
        claims = _claims(version, use.model)
        for kind in claims:
            if use.scale != 1:
                raise BadRequest(
                    f"{where}.scale: {use.model} has a part of kind {kind}: its scale is 1",
                    param=f"{where}.scale",
                )
            if kind in taken:
                raise BadRequest(
                    f"{where}.model: {use.model} has a part of kind {kind}, and so has "
                    f"{taken[kind]}; a request takes one",
                    param=f"{where}.model",
                )
        taken |= claims
        beside.append((version, use.scale))
    return replace(target, beside=tuple(beside))


def _claims(version: Version, model: str) -> dict[str, str]:
    """The kinds of which a request takes one, where `version` has them → the model's name."""
    return {spec.kind: model for spec in specs_before_pass(version)}


def _fit(other: Target, target: Target, param: str) -> Version:
    version = other.version
    if version is None:
        raise BadRequest(f"{param}: {other.model} is a base; name an adapter of it", param=param)
    if other.base is not target.base:
        raise AdapterMismatch(
            f"{param}: {other.model} is for the base {other.base.card.name}, and this request "
            f"asks {target.base.card.name}",
            param=param,
        )
    if not changes_pass(version) and not specs_before_pass(version):
        raise AdapterMismatch(
            f"{param}: {other.model} has only a head, which changes no pass; "
            "name it in `models` of /v1/classify",
            param=param,
        )
    return version
