"""PEFT's IA3, read as the config of an `ia3` part.

Refuses to know files: names and the parsed config come in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError

from rootstock_registry.errors import InvalidArtifact
from rootstock_registry.peft_fields import CONFIG
from rootstock_registry.peft_names import Names, matches, refuse_unserved, short

KIND = "ia3"
LEAVES = ("ia3_l",)
_USED = frozenset({
    "exclude_modules", "feedforward_modules", "init_ia3_weights", "modules_to_save", "peft_type",
    "target_modules",
})  # fmt: skip


def refuse(config: Mapping[str, Any]) -> None:
    """Raises InvalidArtifact, naming the field that would change the answer and is not served."""
    inward = config.get("feedforward_modules")
    if inward is not None and not isinstance(inward, list):
        raise InvalidArtifact(
            f"{CONFIG}: feedforward_modules {short(inward)} is not a list of names: write it out"
        )
    refuse_unserved(config, _USED)


def part_config(config: Mapping[str, Any], names: Names, base: BaseCard) -> dict[str, Any]:
    """The config of the part that `names` and `config` make. Raises ArtifactError."""
    if names.biases:
        raise ArtifactError(f"module {names.biases[0]} has a bias without a weight")
    inward = config.get("feedforward_modules") or []
    modules = sorted(names.adapted)
    return {
        "target_modules": modules,
        "feedforward_modules": [module for module in modules if matches(module, inward, base)],
        "modules_to_save": names.saved,
    }
