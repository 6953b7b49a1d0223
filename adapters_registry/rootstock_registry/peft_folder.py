"""A folder that PEFT saved, read as parts, by the reader of its `peft_type`.

Parsed here, strictly, never by PEFT's own loader, which imports what the config names. Refuses to
fetch anything: `base_model_name_or_path` is informational, the tensors' shapes decide.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.file import pack, parse_object, unpack
from rootstock_adapters.kinds import parse_spec

from rootstock_registry import offered, peft_fields, peft_head, peft_ia3, peft_lora, peft_soft
from rootstock_registry.errors import InvalidArtifact, WrongBase
from rootstock_registry.manifest import Lineage
from rootstock_registry.peft_fields import CONFIG
from rootstock_registry.peft_names import WEIGHTS, Names, short
from rootstock_registry.peft_record import Record
from rootstock_registry.records import NewPart

MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 256
_READERS = {"LORA": peft_lora, "IA3": peft_ia3}


def read(
    folder: Path, base: BaseCard, base_folder: Path | None = None
) -> tuple[list[NewPart], Lineage]:
    """The parts in `folder`, their tensors renamed as `base` names its modules.

    A classifier (SEQ_CLS, TOKEN_CLS) is a part of its own, a head; `base_folder` holds the base,
    for what a classifier reads of it. Raises InvalidArtifact, naming the file and the field, or
    WrongBase, naming the module.
    """
    config = read_config(folder)
    if str(config.get("peft_type")) in peft_soft.METHODS:
        parts = [peft_soft.read(folder, config, base)]
    else:
        parts = _read_tuned(folder, config, base, base_folder)
    version = config.get("peft_version")
    libraries = {"peft": version[:40]} if isinstance(version, str) else {}
    return parts, Lineage(method="import", source="peft folder", libraries=libraries)


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter_config.json in `folder`. Raises InvalidArtifact."""
    if not (folder / CONFIG).exists():
        raise InvalidArtifact(f"{folder} is not a PEFT folder: it has no {CONFIG}")
    text = offered.read(folder / CONFIG, MAX_CONFIG_BYTES)
    if len(text) > MAX_CONFIG_BYTES:
        raise InvalidArtifact(f"{CONFIG} is over {MAX_CONFIG_BYTES} bytes")
    try:
        return parse_object(text)
    except ArtifactError as error:
        raise InvalidArtifact(f"{CONFIG} cannot be read: {error}") from error


def _read_tuned(
    folder: Path, config: dict[str, Any], base: BaseCard, base_folder: Path | None
) -> list[NewPart]:
    kind = config.get("peft_type")
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        known = ", ".join(sorted([*_READERS, *peft_soft.METHODS]))
        raise InvalidArtifact(f"{CONFIG}: peft_type {short(kind)} cannot be imported: only {known}")
    reader.refuse(config)
    peft_fields.check(config)
    try:
        tensors = unpack(_weights(folder, base))
        heads, taken = [], set[str]()
        if task := peft_head.task_of(config):
            head, taken = peft_head.take(task, tensors, config, base, base_folder)
            heads = [head]
        names = Names([name for name in tensors if name not in taken], base, reader.LEAVES)
        spec_config = reader.part_config(config, names, base)
        names.check_config(config, taken)
        spec = parse_spec(reader.KIND, spec_config)
        renamed = {names.renamed[name]: tensors[name] for name in tensors if name not in taken}
        record = Record.of(config, {ours: name for name, ours in names.renamed.items()}, base)
        return [NewPart(spec, pack(renamed, record.metadata)), *heads]
    except ArtifactError as error:
        raise InvalidArtifact(f"{WEIGHTS}: {error}") from error


def _weights(folder: Path, base: BaseCard) -> bytes:
    file = folder / WEIGHTS
    if not file.exists() and (folder / "adapter_model.bin").exists():
        raise InvalidArtifact(
            f"{folder} has pickled weights (adapter_model.bin), which are never read: save the "
            "adapter again with safe_serialization=True"
        )
    # None for this base is larger: the highest rank everywhere and all of the base, in fp32.
    places = base.linears | base.output | base.embeddings
    updates = MAX_RANK * sum(sum(shape) for shape in places.values())
    whole = sum(math.prod(shape) for shape in base.parameters.values())
    tied = sum(math.prod(shape) for shape in base.output.values())
    limit = (1 << 20) + 4 * (updates + whole + tied)
    data = offered.read(file, limit)
    if len(data) > limit:
        raise WrongBase(
            f"{WEIGHTS} is larger than any adapter for base {base.name!r} ({limit} bytes)"
        )
    return data
