"""What a PEFT folder says beyond a part's config: kept with its tensors, to be written again.

It stands in the `__metadata__` of the part's file, which nothing that computes reads. Refuses to
know files and methods.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from rootstock_adapters.architectures import ARCHITECTURES
from rootstock_adapters.base_card import OUTPUT, BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.file import metadata_of, parse_object

from rootstock_registry import peft_fields
from rootstock_registry.errors import InvalidArtifact

KEY = "peft"
PREFIX = "base_model.model."
# What would be written by other values if it were not kept.
_KEPT = (
    "auto_mapping", "base_model_name_or_path", "bias", "fan_in_fan_out", "lora_dropout",
    "modules_to_save", "num_attention_heads", "num_layers", "num_transformer_submodules",
    "peft_version", "revision", "task_type", "token_dim",
)  # fmt: skip


class Record(BaseModel):
    """`fields` of the folder's config; `names` of those tensors that canonical names do not give.

    `inside` says whether the backbone stood in a task model; all other names follow from that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    fields: dict[str, Any] = {}
    inside: bool = True
    names: dict[str, str] = {}

    @classmethod
    def of(cls, config: Mapping[str, Any], names: Mapping[str, str], base: BaseCard) -> Self:
        """Of a checked `config`, and of `names`: a part's tensors → what they were called."""
        fields = {name: config[name] for name in _KEPT if config.get(name) is not None}
        tries = [
            cls(fields=fields, inside=inside, names=_exceptions(names, base, inside))
            for inside in (True, False)
        ]
        return min(tries, key=lambda record: len(record.names))

    @classmethod
    def read(cls, data: bytes) -> Self:
        """Of a part's file; of one that no PEFT folder made, an empty one. Raises ArtifactError."""
        text = metadata_of(data).get(KEY)
        if text is None:
            return cls()
        try:
            record = cls.model_validate(parse_object(text.encode()))
            peft_fields.check(record.fields)
        except (ArtifactError, InvalidArtifact, ValidationError) as error:
            raise ArtifactError(f"its record of a PEFT folder cannot be read: {error}") from error
        if strange := [name for name in record.names.values() if not name.isprintable()]:
            raise ArtifactError(f"its record of a PEFT folder has a strange name: {strange[0]!a}")
        return record

    @property
    def metadata(self) -> dict[str, str]:
        return {
            KEY: json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        }

    def name(self, stored: str, base: BaseCard) -> str:
        """What PEFT calls the part's tensor `stored`."""
        return self.names.get(stored) or canonical(stored, base, self.inside)


def canonical(stored: str, base: BaseCard, inside: bool = True) -> str:
    return PREFIX + full_path(stored, base, inside)


def full_path(path: str, base: BaseCard, inside: bool = True) -> str:
    """A module's or a parameter's path, seen from the model that holds the backbone."""
    prefix = ARCHITECTURES[base.model_type].prefix
    at_top = path == OUTPUT or path.startswith(f"{OUTPUT}.")
    return path if at_top or not prefix or not inside else f"{prefix}.{path}"


def _exceptions(names: Mapping[str, str], base: BaseCard, inside: bool) -> dict[str, str]:
    return {ours: name for ours, name in names.items() if name != canonical(ours, base, inside)}
