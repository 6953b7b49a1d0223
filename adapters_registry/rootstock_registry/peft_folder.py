"""A folder that PEFT saved, read as one part, by the reader of its `peft_type`.

Parsed here, strictly, never by PEFT's own loader, which imports what the config names. Refuses to
fetch anything: `base_model_name_or_path` is informational, the tensors' shapes decide.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.file import check_tensors, parse_object, with_header
from rootstock_adapters.kinds import parse_spec

from rootstock_registry import peft_ia3, peft_lora, peft_soft
from rootstock_registry.errors import InvalidArtifact, WrongBase
from rootstock_registry.manifest import Lineage
from rootstock_registry.peft_names import CONFIG, WEIGHTS, Names, short
from rootstock_registry.records import NewPart

MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 256
_READERS = {"LORA": peft_lora, "IA3": peft_ia3}


def read(folder: Path, base: BaseCard) -> tuple[NewPart, Lineage]:
    """The part in `folder` with its tensors renamed as `base` names its modules.

    Raises InvalidArtifact, naming the file and the field, or WrongBase, naming the module.
    """
    config = _config(folder)
    if str(config.get("peft_type")) in peft_soft.METHODS:
        return peft_soft.read(folder, config, base)
    reader = _READERS.get(str(config.get("peft_type")))
    if reader is None:
        raise InvalidArtifact(
            f"{CONFIG}: peft_type {short(config.get('peft_type'))} cannot be imported: only "
            f"{', '.join(sorted([*_READERS, *peft_soft.METHODS]))}"
        )
    reader.refuse(config)
    try:
        data = _weights(folder, base)
        headers = check_tensors(data)
        names = Names(headers, base, reader.LEAVES)
        spec_config = reader.part_config(config, names, base)
        names.check_config(config)
        spec = parse_spec(reader.KIND, spec_config)
        renamed = {names.renamed[name]: tensor for name, tensor in headers.items()}
        part = NewPart(spec, with_header(data, renamed))
    except ArtifactError as error:
        raise InvalidArtifact(f"{WEIGHTS}: {error}") from error
    version = config.get("peft_version")
    libraries = {"peft": version[:40]} if isinstance(version, str) else {}
    return part, Lineage(method="import", source="peft folder", libraries=libraries)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        raise InvalidArtifact(f"{folder} is not a PEFT folder: it has no {CONFIG}")
    try:
        with file.open("rb") as stream:
            text = stream.read(MAX_CONFIG_BYTES + 1)
        if len(text) > MAX_CONFIG_BYTES:
            raise ArtifactError(f"it is over {MAX_CONFIG_BYTES} bytes")
        return parse_object(text)
    except (ArtifactError, OSError) as error:
        raise InvalidArtifact(f"{CONFIG} cannot be read: {error}") from error


def _weights(folder: Path, base: BaseCard) -> bytes:
    file = folder / WEIGHTS
    if not file.is_file():
        if (folder / "adapter_model.bin").exists():
            raise InvalidArtifact(
                f"{folder} has pickled weights (adapter_model.bin), which are never read: save the "
                "adapter again with safe_serialization=True"
            )
        raise InvalidArtifact(f"{folder} has no {WEIGHTS}")
    # None for this base is larger: the highest rank everywhere and all of the base, in fp32.
    places = base.linears | base.output | base.embeddings
    updates = MAX_RANK * sum(sum(shape) for shape in places.values())
    whole = sum(math.prod(shape) for shape in base.parameters.values())
    tied = sum(math.prod(shape) for shape in base.output.values())
    limit = (1 << 20) + 4 * (updates + whole + tied)
    with file.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise WrongBase(
            f"{WEIGHTS} is larger than any adapter for base {base.name!r} ({limit} bytes)"
        )
    return data
