"""A soft prompt that PEFT saved (prompt tuning or prefix tuning), read as one part.

Refuses to know how it was begun (at random, from a text): the saved tensor decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.file import TensorHeader, check_tensors, with_header
from rootstock_adapters.kinds import parse_spec
from rootstock_adapters.soft_prompt.spec import TENSOR

from rootstock_registry import offered, peft_fields
from rootstock_registry.errors import InvalidArtifact, WrongBase
from rootstock_registry.peft_fields import CONFIG
from rootstock_registry.peft_names import WEIGHTS
from rootstock_registry.peft_record import Record
from rootstock_registry.records import NewPart

METHODS = {"PROMPT_TUNING": "prompt_tuning", "PREFIX_TUNING": "prefix_tuning"}
HEADER_BYTES = 1 << 20

# Sizes are read from the tensor; how it was begun, and whether a network made it, is over.
_INFORMATIONAL = {
    "auto_mapping",
    "base_model_name_or_path",
    "encoder_hidden_size",
    "inference_mode",
    "init_weights",
    "num_attention_heads",
    "num_layers",
    "num_transformer_submodules",
    "num_virtual_tokens",
    "peft_type",
    "peft_version",
    "prefix_projection",
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "revision",
    "task_type",
    "token_dim",
    "tokenizer_kwargs",
    "tokenizer_name_or_path",
}


def read(folder: Path, config: dict[str, Any], base: BaseCard) -> NewPart:
    """The soft prompt in `folder`, whose adapter_config.json is `config`.

    Raises InvalidArtifact, naming the file and the field, or WrongBase.
    """
    for field, value in config.items():
        if value and field not in _INFORMATIONAL:
            raise InvalidArtifact(f"{CONFIG}: {field[:80]} {repr(value)[:80]} is not served here")
    peft_fields.check(config)
    if "num_virtual_tokens" not in config:
        raise InvalidArtifact(f"{CONFIG}: num_virtual_tokens is missing")
    method = METHODS[config["peft_type"]]
    fields = {"method": method, "num_virtual_tokens": config["num_virtual_tokens"]}
    try:
        spec = parse_spec("soft_prompt", fields)
    except ArtifactError as error:
        raise InvalidArtifact(f"{CONFIG}: {error}") from error
    try:
        rows, width = spec.tensor_shapes(base)[TENSOR]
    except ArtifactError as error:
        raise WrongBase(str(error)) from error
    data = _weights(folder / WEIGHTS, 4 * rows * width + HEADER_BYTES)
    try:
        found = check_tensors(data)
        _check_width(found, width, base)
        spec.check(data, base)
    except ArtifactError as error:
        raise InvalidArtifact(f"{WEIGHTS}: {error}") from error
    record = Record.of(config, {name: name for name in found}, base)
    return NewPart(spec, with_header(data, found, record.metadata))


def _check_width(tensors: dict[str, TensorHeader], width: int, base: BaseCard) -> None:
    found = tensors.get(TENSOR)
    if found is not None and len(found.shape) == 2 and found.shape[1] != width:
        raise WrongBase(
            f"{WEIGHTS}: each virtual token has {found.shape[1]} values, on base {base.name!r} it "
            f"would have {width}: was it trained on another base?"
        )


def _weights(file: Path, limit: int) -> bytes:
    if not file.exists():
        raise InvalidArtifact(
            f"{file.parent} has no {WEIGHTS} (pickled weights are never read: save the adapter "
            "again with safe_serialization=True)"
        )
    data = offered.read(file, limit)
    if len(data) > limit:
        raise WrongBase(f"{WEIGHTS} is larger than this soft prompt can be here ({limit} bytes)")
    return data
