"""Which heads go into one package, and whether they can: the same frozen base under all of them.

Refuses to know torch and the target's format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.kinds import parse_spec
from rootstock_registry import Registry, Version

from rootstock_export.errors import NotExportable


@dataclass(frozen=True)
class PlannedHead:
    """One head of the package. `data` is its checked safetensors file, `output` the graph's name
    for its logits.
    """

    name: str
    ref: str
    digest: str
    output: str
    spec: HeadSpec
    data: bytes


@dataclass(frozen=True)
class Plan:
    base_path: Path
    card: BaseCard
    heads: tuple[PlannedHead, ...]


def plan(versions: Sequence[Version], base_path: Path, registry: Registry) -> Plan:
    """Check that `versions` are heads of the encoder at `base_path`, and read their tensors.

    Raises NotExportable where they are not; BaseError, ArtifactError and the registry's errors
    where the folder or a stored part is not what it should be.
    """
    if not versions:
        raise NotExportable("nothing to export: name at least one adapter")
    _refuse_shared_names(versions)
    card = BaseCard.read(base_path, versions[0].manifest.base.name)
    if card.task != "encode":
        raise NotExportable(
            f"base {card.name} ({card.model_type}) generates text; "
            "only heads on an encoder can be exported"
        )
    heads = [_head(index, version, card, registry) for index, version in enumerate(versions)]
    return Plan(base_path, card, tuple(heads))


def _refuse_shared_names(versions: Sequence[Version]) -> None:
    names = [version.name for version in versions]
    shared = sorted({name for name in names if names.count(name) > 1})
    if shared:
        raise NotExportable(
            f"{', '.join(shared)}: asked for twice; a package holds one version of an adapter"
        )


def _head(index: int, version: Version, card: BaseCard, registry: Registry) -> PlannedHead:
    if version.base_fingerprint != card.fingerprint:
        raise NotExportable(
            f"{version.ref} was made for base {version.manifest.base.name} with fingerprint "
            f"{version.base_fingerprint}; the folder given has {card.fingerprint}: "
            "give that base's folder, and export adapters of one base at a time"
        )
    parts = version.manifest.parts
    kinds = [part.kind for part in parts]
    if kinds != [HeadSpec.kind]:
        raise NotExportable(
            f"{version.ref} has parts {', '.join(kinds)}: only an adapter that is one head, "
            "and leaves the base as it is, can be exported"
        )
    spec = parse_spec(parts[0].kind, dict(parts[0].config))
    assert isinstance(spec, HeadSpec)
    _refuse_shape(version, spec)
    data = registry.blobs.get(parts[0].blob)
    spec.check(data, card)
    # Not the adapter's name: exporters refuse or rename outputs that a node inside already has.
    output = f"head_{index}_logits"
    return PlannedHead(version.name, version.ref, version.digest, output, spec, data)


def _refuse_shape(version: Version, spec: HeadSpec) -> None:
    why = None
    if spec.per_token:
        why = "labels every token"
    elif spec.hidden:
        why = f"has a hidden layer of {spec.hidden} units"
    elif spec.pooling == "max":
        why = "pools by the largest"
    if why:
        raise NotExportable(
            f"the head of {version.ref} {why}: only a linear head over the cls, mean or last "
            "hidden state can be exported"
        )
