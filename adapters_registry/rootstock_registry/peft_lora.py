"""PEFT's LoRA, rsLoRA and DoRA, read as the config of a `lora` part.

Refuses to know files: names and the parsed config come in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError

from rootstock_registry.errors import InvalidArtifact
from rootstock_registry.peft_fields import CONFIG
from rootstock_registry.peft_names import Names, pattern, refuse_unserved, short

KIND = "lora"
LEAVES = (
    "lora_A.weight",
    "lora_B.weight",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
)
_USED = frozenset({
    "alpha_pattern", "bias", "eva_config", "exclude_modules", "init_lora_weights",
    "layers_to_transform", "lora_alpha", "lora_dropout", "modules_to_save", "peft_type",
    "qalora_group_size", "r", "rank_pattern", "target_modules", "use_dora", "use_rslora",
})  # fmt: skip
# The ways of beginning that leave the base's own weights alone. The others (PiSSA, OLoRA, LoftQ,
# CorDA, LoRA-GA) subtract something from the base, so their tensors are no update of our base.
_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")
_PAIRS = (("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B"))


def refuse(config: Mapping[str, Any]) -> None:
    """Raises InvalidArtifact, naming the field that would change the answer and is not served."""
    if config.get("bias", "none") not in ("none", "all", "lora_only"):
        raise InvalidArtifact(
            f"{CONFIG}: bias {short(config['bias'])} is not one of none, all, lora_only"
        )
    init = config.get("init_lora_weights", True)
    if not isinstance(init, bool | str) or init not in _INITS:
        raise InvalidArtifact(
            f"{CONFIG}: init_lora_weights {short(init)} changes the base's own weights; save the "
            "adapter with path_initial_model_for_weight_conversion to make it a plain LoRA"
        )
    missing = [field for field in ("r", "lora_alpha") if field not in config]
    if missing:
        raise InvalidArtifact(f"{CONFIG}: {missing[0]} is missing")
    refuse_unserved(config, _USED)


def part_config(config: Mapping[str, Any], names: Names, base: BaseCard) -> dict[str, Any]:
    """The config of the part that `names` and `config` make. Raises ArtifactError."""
    _check_pairs(names, bool(config.get("use_dora")))
    if names.biases and config.get("bias", "none") == "none":
        raise ArtifactError(
            f"module {names.biases[0]} has a bias, and {CONFIG} says that bias is none"
        )
    modules = sorted(names.adapted)
    fields = ("r", "lora_alpha", "use_rslora", "use_dora")
    chosen = {field: config[field] for field in fields if config.get(field) is not None}
    return chosen | {
        "target_modules": modules,
        "rank_pattern": pattern(config, "rank_pattern", base, modules),
        "alpha_pattern": pattern(config, "alpha_pattern", base, modules),
        "modules_to_save": names.saved,
        "biases": names.biases,
    }


def _check_pairs(names: Names, dora: bool) -> None:
    """Each module must have both of its matrices."""
    for module, leaves in sorted(names.adapted.items()):
        for pair in _PAIRS:
            if absent := set(pair) - leaves if leaves & set(pair) else ():
                raise ArtifactError(f"module {module} has no {min(absent)}")
        if ("lora_magnitude_vector" in leaves) != dora:
            raise ArtifactError(
                f"module {module} has {'no' if dora else 'a'} lora_magnitude_vector, and "
                f"{CONFIG} has use_dora {dora}"
            )
