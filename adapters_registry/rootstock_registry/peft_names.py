"""What PEFT's names mean on a base: of tensors in its files, of modules in its configs.

Refuses to know what any method does with a module.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from rootstock_adapters.base_card import OUTPUT, BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.replaced.spec import replaceable

from rootstock_registry.errors import InvalidArtifact, WrongBase
from rootstock_registry.peft_fields import CONFIG
from rootstock_registry.peft_head import ALWAYS_NAMED

WEIGHTS = "adapter_model.safetensors"
# Where it was trained, how, and which modules a pattern meant: the tensors' names say the last.
# PEFT's own loader imports what `auto_mapping` names; here it is read by nobody.
INFORMATIONAL = frozenset({
    "auto_mapping", "base_model_name_or_path", "fan_in_fan_out", "inference_mode",
    "layers_pattern", "megatron_core", "peft_version", "revision", "runtime_config", "task_type",
})  # fmt: skip
_TENSOR = re.compile(
    r"base_model\.model\.(?P<module>.+?)\.(?P<leaf>lora_[AB]\.weight|lora_embedding_[AB]"
    r"|lora_magnitude_vector|ia3_l|(base_layer\.)?(weight|bias))"
)
_OWN = ("weight", "bias", "base_layer.weight", "base_layer.bias")


def refuse_unserved(config: Mapping[str, Any], served: Iterable[str]) -> None:
    """Every option that is switched on and would change the answer must be one we implement."""
    for field, value in config.items():
        if value and field not in served and field not in INFORMATIONAL:
            raise InvalidArtifact(f"{CONFIG}: {field[:80]} {short(value)} is not served here")


def short(value: Any) -> str:
    return repr(value)[:80]


class Names:
    """The tensors of one file, by what they belong to on `base`.

    `adapted` maps a module to the leaves that a method put there, `saved` are the modules whose
    own parameters the file has, `biases` those of which it has the bias alone; `renamed` maps every
    tensor to its name in a part. Raises ArtifactError or WrongBase, naming the tensor.
    """

    def __init__(self, tensors: Iterable[str], base: BaseCard, leaves: Iterable[str]) -> None:
        self.adapted: dict[str, set[str]] = defaultdict(set)
        self.renamed: dict[str, str] = {}
        self._leaves, self._base, self._own = set(leaves), base, replaceable(base)
        own: dict[str, set[str]] = defaultdict(set)
        for name in tensors:
            module, leaf = self._locate(name)
            if leaf in _OWN:
                leaf = leaf.removeprefix("base_layer.")
                own[module].add(leaf)
            else:
                self.adapted[module].add(leaf)
            self.renamed[name] = f"{module}.{leaf}"
        if len(set(self.renamed.values())) != len(self.renamed):
            raise ArtifactError("two tensors belong to one module")
        self.saved = sorted(module for module, found in own.items() if "weight" in found)
        self.biases = sorted(own.keys() - set(self.saved))

    def _locate(self, name: str) -> tuple[str, str]:
        match = _TENSOR.fullmatch(name)
        if match is None or match["leaf"] not in (*_OWN, *self._leaves):
            raise ArtifactError(f"tensor {name[:200]} is not one of those that are served")
        module, leaf = self._base.module_path(match["module"]), match["leaf"]
        module = OUTPUT if module == "embed_out" else module
        adaptable = module in self._base.linears | self._base.output | self._base.embeddings
        if leaf in _OWN and module not in self._own:
            raise ArtifactError(
                f"tensor {name[:200]} is of a module outside the base (modules_to_save): publish a "
                "classifier as a head (task_type SEQ_CLS or TOKEN_CLS), or save the adapter "
                "without it"
            )
        if leaf not in _OWN and not adaptable:
            raise WrongBase(
                f"{WEIGHTS} has weights for module {module[:200]}, and base "
                f"{self._base.name!r} has no such linear: was it trained on another base?"
            )
        return module, leaf

    def check_config(self, config: Mapping[str, Any], heads: Iterable[str] = ()) -> None:
        """What the config says must be there: without one of the modules, the base would answer.

        `heads` are tensors of the same file that became a head.
        """
        self._check_targets(config)
        saved = config.get("modules_to_save") or []
        if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
            raise InvalidArtifact(
                f"{CONFIG}: modules_to_save {short(saved)} is not a list of names"
            )
        for name in saved:
            # A name may stand for a whole block, of which the linears and norms are saved.
            inside = [f".{self._base.prefix}.{module}." for module in self.saved]
            inside += [f".{tensor}" for tensor in heads]
            always = name in ALWAYS_NAMED and heads
            if not always and not any(f".{name}." in path for path in inside):
                raise ArtifactError(
                    f"{CONFIG}'s modules_to_save names {name[:80]}, without weights"
                )

    def _check_targets(self, config: Mapping[str, Any]) -> None:
        targets = config.get("target_modules")
        if not self.adapted:
            raise ArtifactError("it has no weights of the method that the config names")
        if not isinstance(targets, list):
            return
        there = self._base.linears | self._base.output | self._base.embeddings
        meant = {module for module in there if matches(module, targets, self._base)}
        if strangers := sorted(self.adapted.keys() - meant):
            raise ArtifactError(f"module {strangers[0]} is not among {CONFIG}'s target_modules")
        narrowed = any(
            config.get(f) is not None for f in ("layers_to_transform", "exclude_modules")
        )
        if not narrowed and (absent := sorted(meant - self.adapted.keys())):
            raise ArtifactError(f"{CONFIG} targets module {absent[0]}, which has no weights")


def matches(module: str, names: Iterable[Any], base: BaseCard) -> bool:
    """PEFT's rule for a list: the whole path, or its end after a dot."""
    path = f".{module}" if module == OUTPUT else f".{base.prefix}.{module}"
    if module == OUTPUT and any(name == "embed_out" for name in names):
        return True
    return any(isinstance(name, str) and path.endswith(f".{name}") for name in names)


def pattern(config: Mapping[str, Any], field: str, base: BaseCard, modules: Iterable[str]) -> Any:
    """`rank_pattern` or `alpha_pattern` by full module path; the first key that matches counts.

    PEFT reads the keys as regular expressions; here they are names, whole after a `^`, else ends.
    """
    keys = config.get(field) or {}
    if not isinstance(keys, dict):
        raise InvalidArtifact(f"{CONFIG}: {field} {short(keys)} is not a table")
    for key in keys:
        if not re.fullmatch(r"\^?[A-Za-z0-9_.]+", key):
            raise InvalidArtifact(
                f"{CONFIG}: {field}: {short(key)} is a regular expression, which is not served: "
                "write it out as module names"
            )
    found = {}
    for module in modules:
        for key, value in keys.items():
            whole = key.removeprefix("^")
            same = whole in (module, f"{base.prefix}.{module}")
            if same or (whole == key and matches(module, [key], base)):
                found[module] = value
                break
    return found
