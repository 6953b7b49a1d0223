"""A folder that PEFT saved, read as one LoRA part.

Parsed here, strictly, never by PEFT's own loader, which imports what the config names. Refuses to
fetch anything: `base_model_name_or_path` is informational, the tensors' shapes decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.file import check_tensors, parse_object, with_header
from rootstock_adapters.kinds import parse_spec

from rootstock_registry.errors import InvalidArtifact, WrongBase
from rootstock_registry.manifest import Lineage
from rootstock_registry.records import NewPart

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 256
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")

_USED = {"r", "lora_alpha", "use_rslora", "target_modules", "peft_type", "bias"} | {
    "init_lora_weights",
    "layers_to_transform",
    "exclude_modules",
}
# Where it was trained, how, and which modules a pattern meant: the tensors' names say the last.
# PEFT's own loader imports what `auto_mapping` names; here it is read by nobody.
_INFORMATIONAL = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
# The ways of beginning that leave the base's own weights alone. The others (PiSSA, OLoRA, LoftQ,
# CorDA, LoRA-GA) subtract something from the base, so their tensors are no update of our base.
_INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")


def read(folder: Path, base: BaseCard) -> tuple[NewPart, Lineage]:
    """The LoRA part in `folder` with its tensors renamed as `base` names its modules.

    Raises InvalidArtifact, naming the file and the field, or WrongBase, naming the module.
    """
    config = _config(folder)
    try:
        data = _weights(folder, base)
        headers = check_tensors(data)
        renamed = {_rename(name, base): tensor for name, tensor in headers.items()}
        modules = _modules(renamed.keys())
        if len(renamed) != len(headers):
            raise ArtifactError("two tensors belong to one module")
        _check_targets(config, modules, base)
        spec = parse_spec("lora", {**_chosen(config), "target_modules": modules})
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
        config = parse_object(text)
    except (ArtifactError, OSError) as error:
        raise InvalidArtifact(f"{CONFIG} cannot be read: {error}") from error
    _refuse(config)
    return config


def _refuse(config: dict[str, Any]) -> None:
    """Every option that is switched on and would change the answer must be one we implement."""
    if config.get("peft_type") != "LORA":
        raise InvalidArtifact(
            f"{CONFIG}: peft_type {_short(config.get('peft_type'))} cannot be imported: only LORA"
        )
    if config.get("bias", "none") != "none":
        raise InvalidArtifact(f"{CONFIG}: bias {_short(config['bias'])} is not served: only 'none'")
    init = config.get("init_lora_weights", True)
    if not isinstance(init, bool | str) or init not in _INITS:
        raise InvalidArtifact(
            f"{CONFIG}: init_lora_weights {_short(init)} changes the base's own weights; save the "
            "adapter with path_initial_model_for_weight_conversion to make it a plain LoRA"
        )
    for field, value in config.items():
        if value and field not in _USED | _INFORMATIONAL:
            raise InvalidArtifact(f"{CONFIG}: {field[:80]} {_short(value)} is not served here")


def _short(value: Any) -> str:
    return repr(value)[:80]


def _chosen(config: dict[str, Any]) -> dict[str, Any]:
    missing = [field for field in ("r", "lora_alpha") if field not in config]
    if missing:
        raise InvalidArtifact(f"{CONFIG}: {missing[0]} is missing")
    return {field: config[field] for field in ("r", "lora_alpha", "use_rslora") if field in config}


def _weights(folder: Path, base: BaseCard) -> bytes:
    file = folder / WEIGHTS
    if not file.is_file():
        if (folder / "adapter_model.bin").exists():
            raise InvalidArtifact(
                f"{folder} has pickled weights (adapter_model.bin), which are never read: save the "
                "adapter again with safe_serialization=True"
            )
        raise InvalidArtifact(f"{folder} has no {WEIGHTS}")
    # No LoRA for this base is larger: every linear, at the highest rank, in fp32.
    limit = (1 << 20) + 4 * MAX_RANK * sum(sum(shape) for shape in base.linears.values())
    with file.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise WrongBase(f"{WEIGHTS} is larger than any LoRA for base {base.name!r} ({limit} bytes)")
    return data


def _rename(name: str, base: BaseCard) -> str:
    match = _TENSOR.fullmatch(name)
    if match is None:
        raise ArtifactError(f"tensor {name[:200]} is not a LoRA matrix of a linear")
    module = base.module_path(match["module"])
    if module not in base.linears:
        raise WrongBase(
            f"{WEIGHTS} has weights for module {module[:200]}, and base {base.name!r} has no such "
            "linear: was it trained on another base?"
        )
    return f"{module}.lora_{match['side']}.weight"


def _modules(names: Iterable[str]) -> list[str]:
    """The modules, each of which must have both of its matrices."""
    sides = {side: {n.removesuffix(end) for n in names if n.endswith(end)} for side, end in _ENDS}
    for module in sorted(sides["A"] ^ sides["B"]):
        missing = "B" if module in sides["A"] else "A"
        raise ArtifactError(f"module {module} has no lora_{missing}.weight")
    if not sides["A"]:
        raise ArtifactError("it has no LoRA weights")
    return sorted(sides["A"])


_ENDS = (("A", ".lora_A.weight"), ("B", ".lora_B.weight"))


def _check_targets(config: dict[str, Any], modules: list[str], base: BaseCard) -> None:
    """A list of targets says which modules must be there: without one, the base would answer."""
    targets = config.get("target_modules")
    if not isinstance(targets, list):
        return
    meant = {module for module in base.linears if _matches(module, targets, base)}
    if strangers := sorted(set(modules) - meant):
        raise ArtifactError(f"module {strangers[0]} is not among {CONFIG}'s target_modules")
    narrowed = any(config.get(f) is not None for f in ("layers_to_transform", "exclude_modules"))
    if not narrowed and (absent := sorted(meant - set(modules))):
        raise ArtifactError(f"{CONFIG} targets module {absent[0]}, which has no weights")


def _matches(module: str, targets: list[Any], base: BaseCard) -> bool:
    """PEFT's rule: the whole path, or its end after a dot."""
    path = f".{base.prefix}.{module}"
    return any(isinstance(target, str) and path.endswith(f".{target}") for target in targets)
