"""Which bytes a name means: versions, their blobs and manifests, tenants, keys, routes, jobs.

Refuses to know torch, models and requests. Names load on first use, so that an engine process can
read blobs and manifests without a database library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rootstock_registry.blobs import BlobStore
    from rootstock_registry.comparisons import Comparison
    from rootstock_registry.manifest import BaseRef, Lineage, Manifest, Part, TensorInfo
    from rootstock_registry.records import (
        AdapterSummary,
        AliasMove,
        ApiKey,
        Change,
        Job,
        KeyOwner,
        NewPart,
        Page,
        Role,
        Route,
        Version,
        VersionSummary,
    )
    from rootstock_registry.registry import Registry

_HOMES = {
    "AdapterSummary": "records",
    "AliasMove": "records",
    "ApiKey": "records",
    "BaseRef": "manifest",
    "BlobStore": "blobs",
    "Change": "records",
    "Comparison": "comparisons",
    "Job": "records",
    "KeyOwner": "records",
    "Lineage": "manifest",
    "Manifest": "manifest",
    "NewPart": "records",
    "Page": "records",
    "Part": "manifest",
    "Registry": "registry",
    "Role": "records",
    "Route": "records",
    "TensorInfo": "manifest",
    "Version": "records",
    "VersionSummary": "records",
}

__all__ = [
    "AdapterSummary",
    "AliasMove",
    "ApiKey",
    "BaseRef",
    "BlobStore",
    "Change",
    "Comparison",
    "Job",
    "KeyOwner",
    "Lineage",
    "Manifest",
    "NewPart",
    "Page",
    "Part",
    "Registry",
    "Role",
    "Route",
    "TensorInfo",
    "Version",
    "VersionSummary",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
