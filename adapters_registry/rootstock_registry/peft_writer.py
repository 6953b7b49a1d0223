"""A version as the folder PEFT would have saved: safetensors and adapter_config.json.

What came from a PEFT folder goes out with the same tensors, bit for bit, under the same names.
Refuses to know torch and PEFT itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rootstock_adapters.architectures import ARCHITECTURES
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.file import pack, unpack
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.ia3.spec import Ia3Spec
from rootstock_adapters.kinds import parse_spec
from rootstock_adapters.lora.spec import LoraSpec
from rootstock_adapters.soft_prompt.spec import SoftPromptSpec
from rootstock_adapters.spec import PartSpec

from rootstock_registry import peft_head
from rootstock_registry.blobs import BlobStore
from rootstock_registry.errors import InvalidArtifact
from rootstock_registry.manifest import Manifest
from rootstock_registry.peft_fields import CONFIG
from rootstock_registry.peft_names import WEIGHTS
from rootstock_registry.peft_record import Record, full_path
from rootstock_registry.peft_soft import METHODS

_NO_FORM = {
    "bottleneck": "PEFT has no bottleneck layers: serve the version, or train a lora on its data",
    "delta": "PEFT has no differences of the base: add them to a copy of the base and save that",
    "head": "PEFT has no head without an adapter: use --target onnx",
    "prompt": "a prompt has no weights: rootstock show --json prints its words",
}
_TASKS = {"generate": "CAUSAL_LM", "encode": "FEATURE_EXTRACTION", "text2text": "SEQ_2_SEQ_LM"}


class _Part(NamedTuple):
    spec: PartSpec
    tensors: peft_head.Tensors
    record: Record


def write(manifest: Manifest, blobs: BlobStore, base: BaseCard, out: Path) -> list[Path]:
    """Write the version of `manifest`, made for `base`, into `out`, a new or an empty folder.

    Raises InvalidArtifact where PEFT has no form for a part, saying what to use instead; NotFound
    or CorruptBlob.
    """
    try:
        part, head = _parts(manifest, blobs)
        tensors = _renamed(part, {n: part.record.name(n, base) for n in part.tensors})
        config = _WRITERS[part.spec.kind](part, base)
        if head is not None:
            own = _head_tensors(head, part, base)
            tensors |= own
            saved = {*(config.get("modules_to_save") or ()), *peft_head.saved_modules(own)}
            config["modules_to_save"] = part.record.fields.get("modules_to_save") or sorted(saved)
            config["task_type"] = part.record.fields.get("task_type", _task(head))
        data = pack(tensors, {"format": "pt"})
    except ArtifactError as error:
        raise InvalidArtifact(f"this version cannot be written for PEFT: {error}") from error
    text = json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return _store(out, {WEIGHTS: data, CONFIG: text.encode()})


def _parts(manifest: Manifest, blobs: BlobStore) -> tuple[_Part, _Part | None]:
    """The part that PEFT has a method for, and the head beside it."""
    kinds = [part.kind for part in manifest.parts]
    if strange := [kind for kind in kinds if kind not in _WRITERS and kind != "head"]:
        raise ArtifactError(_NO_FORM.get(strange[0], f"PEFT has no {strange[0]}"))
    if kinds == ["head"]:
        raise ArtifactError(_NO_FORM["head"])
    if sorted(kind == "head" for kind in kinds) not in ([False], [False, True]):
        raise ArtifactError(
            f"PEFT's folder has one method and at most one head; this version: {', '.join(kinds)}"
        )
    found: dict[bool, _Part] = {}
    for part in manifest.parts:
        data = blobs.get(part.blob)
        spec = parse_spec(part.kind, part.config)
        found[part.kind == "head"] = _Part(spec, unpack(data), Record.read(data))
    return found[False], found.get(True)


def _task(head: _Part) -> peft_head.Task:
    assert isinstance(head.spec, HeadSpec)
    return "TOKEN_CLS" if head.spec.per_token else "SEQ_CLS"


def _head_tensors(head: _Part, part: _Part, base: BaseCard) -> peft_head.Tensors:
    """Under PEFT's names: those that a folder brought, or, of a head made here, all that fit."""
    assert isinstance(head.spec, HeadSpec)
    if isinstance(part.spec, SoftPromptSpec):
        raise ArtifactError("PEFT's soft prompts have no head beside them: export it without")
    if head.record.names:
        return _renamed(head, head.record.names)
    return peft_head.tensors_for(head.spec, head.tensors, _task(head), base)


def _renamed(part: _Part, names: Mapping[str, str]) -> peft_head.Tensors:
    if len(set(names.values())) < len(names) or not names.keys() <= part.tensors.keys():
        raise ArtifactError("its record of a PEFT folder names other tensors than it has")
    return {name: part.tensors[ours] for ours, name in names.items()}


def _common(part: _Part, base: BaseCard, kind: str) -> dict[str, Any]:
    kept = part.record.fields
    return {
        "peft_type": kind,
        "inference_mode": True,
        "auto_mapping": kept.get("auto_mapping"),
        "base_model_name_or_path": kept.get("base_model_name_or_path", base.name),
        "revision": kept.get("revision"),
        # Without a record the version was made here; with one, PEFT's None is a task, too.
        "task_type": kept.get("task_type", None if kept else _TASKS[base.task]),
    } | ({"peft_version": kept["peft_version"]} if "peft_version" in kept else {})


def _lora(part: _Part, base: BaseCard) -> dict[str, Any]:
    spec, kept = part.spec, part.record.fields
    assert isinstance(spec, LoraSpec)
    transposed = ARCHITECTURES[base.model_type].transposed
    return _common(part, base, "LORA") | {
        "r": spec.r,
        "lora_alpha": spec.lora_alpha,
        "lora_dropout": kept.get("lora_dropout", 0.0),
        "use_rslora": spec.use_rslora,
        "use_dora": spec.use_dora,
        "bias": kept.get("bias", "lora_only" if spec.biases else "none"),
        "fan_in_fan_out": kept.get("fan_in_fan_out", transposed),
        "rank_pattern": _pattern(spec.rank_pattern, part, base),
        "alpha_pattern": _pattern(spec.alpha_pattern, part, base),
        "target_modules": _targets(spec.target_modules, part, base),
        "modules_to_save": _saved(spec.modules_to_save, part, base),
    }


def _ia3(part: _Part, base: BaseCard) -> dict[str, Any]:
    spec, kept = part.spec, part.record.fields
    assert isinstance(spec, Ia3Spec)
    targets = _targets(spec.target_modules, part, base)
    inward = _targets(spec.feedforward_modules, part, base) if spec.feedforward_modules else []
    if not set(inward) <= set(targets) or _ends(inward) & _ends(set(targets) - set(inward)):
        targets = _full(spec.target_modules, part, base)
        inward = _full(spec.feedforward_modules, part, base)
    return _common(part, base, "IA3") | {
        "fan_in_fan_out": kept.get("fan_in_fan_out", ARCHITECTURES[base.model_type].transposed),
        "target_modules": targets,
        "feedforward_modules": inward,
        "modules_to_save": _saved(spec.modules_to_save, part, base),
    }


def _soft(part: _Part, base: BaseCard) -> dict[str, Any]:
    spec, kept = part.spec, part.record.fields
    assert isinstance(spec, SoftPromptSpec)
    kind = next(theirs for theirs, ours in METHODS.items() if ours == spec.method)
    # PEFT reads from the model what is None here.
    sizes = ("num_attention_heads", "num_layers", "num_transformer_submodules", "token_dim")
    return _common(part, base, kind) | {
        "num_virtual_tokens": spec.num_virtual_tokens,
        **{size: kept.get(size) for size in sizes},
    }


_WRITERS: Mapping[str, Callable[[_Part, BaseCard], dict[str, Any]]] = {
    "lora": _lora,
    "ia3": _ia3,
    "soft_prompt": _soft,
}


def _targets(modules: Sequence[str], part: _Part, base: BaseCard) -> list[str]:
    """Their last names, where these mean the same modules on `base`; else their whole paths."""
    short = {module.rpartition(".")[2] for module in modules}
    there = base.linears | base.output | base.embeddings
    meant = {module for module in there if module.rpartition(".")[2] in short}
    # A classifier's own linears may end in such a name as well (RoBERTa's `dense`).
    plain = meant == set(modules) and not short & {"dense", "out_proj"}
    return sorted(short) if plain else _full(modules, part, base)


def _full(modules: Sequence[str], part: _Part, base: BaseCard) -> list[str]:
    return sorted(_path(module, part, base) for module in modules)


def _path(module: str, part: _Part, base: BaseCard) -> str:
    """The module's path in the tuned model; old GPT-NeoX calls its output embed_out."""
    for ours, name in part.record.names.items():
        if ours.startswith(f"{module}.lora_") or ours == f"{module}.ia3_l":
            stem = name.removeprefix("base_model.model.")
            return stem[: len(stem) - len(ours) + len(module)]
    return full_path(module, base, part.record.inside)


def _pattern(pattern: Mapping[str, Any], part: _Part, base: BaseCard) -> dict[str, Any]:
    return {f"^{_path(module, part, base)}": value for module, value in sorted(pattern.items())}


def _saved(modules: Sequence[str], part: _Part, base: BaseCard) -> list[str] | None:
    kept = part.record.fields
    return kept.get("modules_to_save") if kept else _full(modules, part, base) or None


def _ends(modules: Sequence[str] | set[str]) -> set[str]:
    return {module.rpartition(".")[2] for module in modules}


def _store(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    """The config last: a folder without it is none."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidArtifact(f"{out} is not empty: give a new or an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        with (out / name).open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    return [out / name for name in files]
