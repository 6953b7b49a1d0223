"""A folder that AdapterHub's library saved: a sequential bottleneck, read as a `bottleneck` part.

The format is that of `adapters` 1.x, as its sources have it (github.com/adapter-hub/adapters,
src/adapters): loading.py and utils.py name the files, configuration/adapter_config.py (`BnConfig`)
the options, methods/modeling.py (`Adapter`) what they compute and how its tensors are called,
models/{bert,distilbert}/mixin_*.py where the layers stand. Refuses to run anything it names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.file import TensorHeader, check_tensors, with_header
from rootstock_adapters.kinds import parse_spec

from rootstock_registry import offered, peft_folder
from rootstock_registry.errors import InvalidArtifact, WrongBase
from rootstock_registry.manifest import Lineage
from rootstock_registry.peft_fields import CONFIG
from rootstock_registry.peft_names import short
from rootstock_registry.records import NewPart

WEIGHTS, PICKLED = "adapter.safetensors", "pytorch_adapter.bin"
# What else the library saves beside an adapter, and what to do about it.
_HEADS = ("head_config.json", "model_head.safetensors", "pytorch_model_head.bin")
_LIMIT = 1 << 30


class _Place(NamedTuple):
    """Where the library's layers stand in a layer of the base, and what they follow there."""

    theirs: str
    linear: str  # the end of the sublayer
    norm: str  # the norm of its output and the residual
    switch: str  # the option that puts a layer there


_PLACES = (
    # BERT, RoBERTa, ELECTRA
    _Place(
        "attention.output", "attention.output.dense", "attention.output.LayerNorm", "mh_adapter"
    ),
    _Place("output", "output.dense", "output.LayerNorm", "output_adapter"),
    # DistilBERT
    _Place("attention_adapters", "attention.out_lin", "sa_layer_norm", "mh_adapter"),
    _Place("output_adapters", "ffn.lin2", "output_layer_norm", "output_adapter"),
)
_LEAVES = {
    "adapter_down.0.weight": "down.weight", "adapter_down.0.bias": "down.bias",
    "adapter_up.weight": "up.weight", "adapter_up.bias": "up.bias",
}  # fmt: skip
_TENSOR = re.compile(
    r"(?P<layer>(?:encoder|transformer)\.layer\.\d{1,4})"
    rf"\.(?P<place>{'|'.join(re.escape(place.theirs) for place in _PLACES)})"
    rf"\.adapters\.(?P<name>[^.]+)\.(?P<leaf>{'|'.join(map(re.escape, _LEAVES))})"
)
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu", "silu": "silu"}


class _Option(NamedTuple):
    """`plain` is the value that the library takes where the config is silent, and that we serve."""

    plain: Any
    instead: str


_TRAIN = "train it again with the config seq_bn or double_seq_bn"
_REFUSED = {
    "adapter_residual_before_ln": _Option(False, _TRAIN),
    "cross_adapter": _Option(False, "there is no cross attention here"),
    "inv_adapter": _Option(None, "train it again without invertible layers"),
    "is_parallel": _Option(False, _TRAIN),
    "ln_after": _Option(False, _TRAIN),
    "ln_before": _Option(False, _TRAIN),
    "original_ln_after": _Option(True, _TRAIN),
    "phm_layer": _Option(False, _TRAIN),
    "residual_before_ln": _Option(True, _TRAIN),
    "use_gating": _Option(False, _TRAIN),
}
# What only training reads, and what only refused options read.
_UNREAD = frozenset({
    "architecture", "dropout", "factorized_phm_W", "factorized_phm_rule",
    "hypercomplex_nonlinearity", "init_weights", "inv_adapter_reduction_factor", "learn_phm",
    "leave_out", "phm_bias", "phm_c_init", "phm_dim", "phm_init_range", "phm_rank",
    "reduction_factor", "shared_W_phm", "shared_phm_rule", "stochastic_depth",
})  # fmt: skip
_READ = frozenset({
    "mh_adapter", "non_linearity", "original_ln_before", "output_adapter", "scaling",
})  # fmt: skip
_OUTER = frozenset({
    "config", "config_id", "hidden_size", "model_class", "model_name", "model_type", "name",
    "version",
})  # fmt: skip


def is_folder(folder: Path) -> bool:
    """Whether AdapterHub's library saved it, rather than PEFT. Raises InvalidArtifact."""
    if not (folder / CONFIG).exists():
        return False
    config = peft_folder.read_config(folder)
    return "peft_type" not in config and ("config" in config or "model_class" in config)


def read(folder: Path, base: BaseCard) -> tuple[list[NewPart], Lineage]:
    """The bottleneck in `folder`. Raises InvalidArtifact, naming the option, or WrongBase."""
    outer = peft_folder.read_config(folder)
    config = _checked(outer, base)
    for file in _HEADS:
        if (folder / file).exists():
            raise InvalidArtifact(
                f"{file}: the library's heads are not imported: take the file away, and train a "
                "head on the imported adapter"
            )
    data = _weights(folder)
    try:
        tensors = check_tensors(data)
        names = _names(tensors, config, base, outer.get("name"))
        spec = parse_spec("bottleneck", _spec(config, names, tensors))
        renamed = {names[name]: tensor for name, tensor in tensors.items()}
        part = NewPart(spec, with_header(data, renamed))
    except ArtifactError as error:
        raise InvalidArtifact(f"{WEIGHTS}: {error}") from error
    version = outer.get("version")
    libraries = {"adapters": version[:40]} if isinstance(version, str) else {}
    return [part], Lineage(method="import", source="adapterhub folder", libraries=libraries)


def _checked(outer: Mapping[str, Any], base: BaseCard) -> dict[str, Any]:
    """The bottleneck's own config in adapter_config.json, all of whose options are served."""
    if strange := sorted(field for field in outer if outer[field] and field not in _OUTER):
        raise InvalidArtifact(f"{CONFIG}: {strange[0][:80]} is not served here: delete it")
    config = outer.get("config")
    if not isinstance(config, dict):
        raise InvalidArtifact(f"{CONFIG}: config {short(config)} is not a table of options")
    if config.get("architecture") is not None:
        raise InvalidArtifact(
            f"{CONFIG}: config.architecture {short(config['architecture'])} cannot be imported: "
            "only bottlenecks, whose architecture is null; convert a LoRA to PEFT's form"
        )
    for field, option in _REFUSED.items():
        value = config.get(field, option.plain)
        if value != option.plain or isinstance(value, int) is not isinstance(option.plain, int):
            raise InvalidArtifact(
                f"{CONFIG}: config.{field} {short(value)} is not served here: {option.instead}"
            )
    for field, value in config.items():
        if value and field not in _READ | _UNREAD | _REFUSED.keys():
            raise InvalidArtifact(
                f"{CONFIG}: config.{field[:80]} {short(value)} is not served here"
            )
    _check_read(config)
    model = outer.get("model_type")
    if model is not None and model != base.model_type:
        raise WrongBase(
            f"{CONFIG}: model_type {short(model)}: the adapter was trained on another architecture "
            f"than base {base.name!r} ({base.model_type})"
        )
    return config


def _check_read(config: Mapping[str, Any]) -> None:
    """The options that decide what is computed have the types that the library gives them."""
    for field in ("mh_adapter", "output_adapter", "original_ln_before"):
        value = config.get(field, False if field == "original_ln_before" else None)
        if not isinstance(value, bool):
            raise InvalidArtifact(f"{CONFIG}: config.{field} {short(value)} is not true or false")
    act, scaling = config.get("non_linearity"), config.get("scaling", 1.0)
    if not isinstance(act, str) or act not in _ACTIVATIONS:
        known = ", ".join(sorted(_ACTIVATIONS))
        raise InvalidArtifact(
            f"{CONFIG}: config.non_linearity {short(act)} is not served here (served: {known})"
        )
    if type(scaling) not in (int, float):
        raise InvalidArtifact(
            f"{CONFIG}: config.scaling {short(scaling)} is not served here: only a number, not one "
            "that was learned"
        )
    layers = config.get("leave_out") or []
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise InvalidArtifact(
            f"{CONFIG}: config.leave_out {short(layers)} is not a list of layers' numbers"
        )


def _weights(folder: Path) -> bytes:
    if not (folder / WEIGHTS).exists() and (folder / PICKLED).exists():
        raise InvalidArtifact(
            f"{folder} has pickled weights ({PICKLED}), which are never read: save the adapter "
            "again with use_safetensors=True"
        )
    data = offered.read(folder / WEIGHTS, _LIMIT)
    if len(data) > _LIMIT:
        raise InvalidArtifact(f"{WEIGHTS} is over {_LIMIT} bytes")
    return data


def _names(
    tensors: Mapping[str, TensorHeader], config: Mapping[str, Any], base: BaseCard, adapter: Any
) -> dict[str, str]:
    """Every tensor's name in a part. Raises ArtifactError or WrongBase, naming the tensor."""
    behind_norm = config.get("original_ln_before", False)
    places = {place.theirs: place for place in _PLACES}
    found = {}
    for name in tensors:
        match = _TENSOR.fullmatch(base.module_path(name))
        if match is None:
            raise ArtifactError(f"tensor {name[:200]} is not one of a sequential bottleneck's")
        if adapter is not None and match["name"] != adapter:
            raise ArtifactError(
                f"tensor {name[:200]} is of another adapter than {CONFIG}'s name {short(adapter)}"
            )
        place = places[match["place"]]
        if config.get(place.switch) is not True:
            raise ArtifactError(f"tensor {name[:200]}: {CONFIG}'s {place.switch} is off")
        if int(match["layer"].rpartition(".")[2]) in (config.get("leave_out") or ()):
            raise ArtifactError(f"tensor {name[:200]} is in a layer of {CONFIG}'s leave_out")
        if f"{match['layer']}.{place.linear}" not in base.linears:
            raise WrongBase(
                f"{WEIGHTS} has layers behind {match['layer']}.{place.linear}, and base "
                f"{base.name!r} has no such linear: was it trained on another base?"
            )
        module = f"{match['layer']}.{place.norm if behind_norm else place.linear}"
        found[name] = f"{module}.{_LEAVES[match['leaf']]}"
    _check_complete(set(found.values()), config, base)
    return found


def _check_complete(there: set[str], config: Mapping[str, Any], base: BaseCard) -> None:
    """Each layer of the base that the config does not leave out must have what is switched on."""
    if not there:
        raise ArtifactError("it has no weights of a bottleneck")
    left_out = set(config.get("leave_out") or ())
    behind_norm = config.get("original_ln_before", False)
    for place in _PLACES:
        ends = [path for path in base.linears if path.endswith(f".{place.linear}")]
        for path in ends if config.get(place.switch) is True else ():
            layer = path.removesuffix(f".{place.linear}")
            if place.theirs == "output" and layer.endswith(".attention"):
                continue  # its name ends as that of the feed-forward's does
            module = f"{layer}.{place.norm if behind_norm else place.linear}"
            lacks = [leaf for leaf in _LEAVES.values() if f"{module}.{leaf}" not in there]
            if lacks and int(layer.rpartition(".")[2]) not in left_out:
                raise ArtifactError(
                    f"{layer}'s {place.theirs} has no {lacks[0]}, and {CONFIG}'s leave_out does "
                    "not name the layer"
                )


def _spec(
    config: Mapping[str, Any], names: Mapping[str, str], tensors: Mapping[str, TensorHeader]
) -> dict[str, Any]:
    modules = sorted({ours.rpartition(".")[0].rpartition(".")[0] for ours in names.values()})
    sizes = {
        tensors[theirs].shape[0]
        for theirs, ours in names.items()
        if ours.endswith(".down.weight") and tensors[theirs].shape
    }
    if len(sizes) != 1:
        raise ArtifactError(
            f"its layers have the sizes {sorted(sizes)}: one for all is served, so "
            "reduction_factor must be one number"
        )
    attention = any(config.get(place.switch) is True for place in _PLACES[::2])
    placement = "houlsby" if attention else "pfeiffer"
    return {
        "placement": "seq_bn" if config.get("original_ln_before", False) else placement,
        "size": sizes.pop(),
        "nonlinearity": _ACTIVATIONS[config["non_linearity"]],
        "scaling": config.get("scaling", 1.0),
        "target_modules": modules,
    }
