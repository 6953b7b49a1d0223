"""A delta part's config and tensors: which of the base's parameters it changes.

Refuses to know torch and what the differences are.
"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from rootstock_adapters.base_card import EMBEDDINGS, OUTPUT, BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.layers import check_layers, inside_layer
from rootstock_adapters.spec import Modules, PartSpec, Shapes

Scope = Literal["biases", "norms", "top-k", "full"]
Role = Literal["weight", "bias", "norm", "norm bias", "embedding"]

# Old files' names for what transformers now calls otherwise, and renames as it loads them.
_RENAMED = {"gamma": "weight", "beta": "bias", "embed_out": OUTPUT}
_FINAL_NORMS = frozenset({
    "norm", "ln_f", "final_norm", "final_layernorm", "final_layer_norm",
    "decoder.final_layer_norm", "encoder.final_layer_norm", "encoder.layer_norm",
    "decoder.layer_norm",
})  # fmt: skip
_TOKEN_EMBEDDINGS = ("embed_tokens", "embed_in", "wte", "shared")


class DeltaSpec(PartSpec):
    """`parameter ← parameter + tensor`, for each of the base's parameters in `parameters`.

    Tensors have the names and shapes that the base's files have, as seen from the backbone. The
    scopes: `biases` of linears and norms (BitFit, Ben Zaken et al., arXiv 2106.10199; all of them,
    no head among them); `norms`, their weights and biases; `top-k`, everything from the k-th last
    layer upward except the output linear (Lee et al., arXiv 1911.03090); `full`, all that the
    server computes with, embeddings and output included (T5's relative positions are in no
    scope). `tied_output` says that the base's output
    linear is its embedding, and so changes with it.
    """

    kind: ClassVar[str] = "delta"

    scope: Scope
    k: int | None = Field(default=None, ge=1)
    parameters: Modules = Field(min_length=1)
    tied_output: bool = False

    @model_validator(mode="after")
    def _k_is_for_top_k(self) -> Self:
        if (self.k is not None) != (self.scope == "top-k"):
            raise ValueError("k: the scope top-k needs it, and no other scope has one")
        return self

    @classmethod
    def of(cls, base: BaseCard, scope: Scope, k: int | None = None) -> DeltaSpec:
        """Everything in `scope` on `base`. Raises ArtifactError where that is nothing."""
        names = parameters_of(base, scope, k)
        return cls(scope=scope, k=k, parameters=names, tied_output=_ties(base, names))

    def tensor_shapes(self, base: BaseCard) -> Shapes:
        within = set(parameters_of(base, self.scope, self.k))
        for name in self.parameters:
            if name not in base.parameters:
                raise ArtifactError(f"delta: base {base.name} has no parameter named {name}")
            if name not in within:
                raise ArtifactError(f"delta: parameter {name} is not in the scope {self.scope}")
        if self.tied_output != _ties(base, self.parameters):
            raise ArtifactError(
                f"delta: tied_output: is {self.tied_output}, which is not so on base {base.name}"
            )
        return {name: base.parameters[name] for name in self.parameters}


def parameters_of(card: BaseCard, scope: Scope, k: int | None = None) -> tuple[str, ...]:
    """The names of the base's parameters in `scope`; raises ArtifactError where there are none."""
    roles = {name: role for name in card.parameters if (role := _role(name, card))}
    if scope == "biases":
        names = [name for name, role in roles.items() if role in ("bias", "norm bias")]
    elif scope == "norms":
        names = [name for name, role in roles.items() if role in ("norm", "norm bias")]
    elif scope == "top-k":
        if card.task == "text2text":
            raise ArtifactError(f"delta: base {card.name} has two stacks of layers: use full")
        first = card.layers - (k or 0)
        check_layers(card, [first])
        names = [name for name in roles if _above(name, first)]
    else:
        names = list(roles)
    if not names:
        raise ArtifactError(f"delta: base {card.name} has no parameters in the scope {scope}")
    return tuple(sorted(names))


def is_token_embedding(name: str) -> bool:
    """Whether it is a decoder's input embedding, which an output linear may share."""
    return canonical(name).removesuffix(".weight").split(".")[-1] in _TOKEN_EMBEDDINGS


def canonical(name: str) -> str:
    """A parameter's name in a file → its name in the loaded model, both seen from the backbone."""
    return ".".join(_RENAMED.get(part, part) for part in name.split("."))


def _ties(base: BaseCard, names: tuple[str, ...]) -> bool:
    return base.tied and any(is_token_embedding(name) for name in names)


def _above(name: str, first: int) -> bool:
    inside = inside_layer(name)
    return inside[0] >= first if inside else name.rpartition(".")[0] in _FINAL_NORMS


def _role(name: str, card: BaseCard) -> Role | None:
    """What a stored tensor is; None for buffers, and for what the server has no use for."""
    module, _, kind = canonical(name).rpartition(".")
    flat = len(card.parameters[name]) == 1
    if kind not in ("weight", "bias"):
        return None
    if "relative_attention_bias" in module:
        return None  # T5's, which is shared by all layers and looked up outside any token
    if module in card.linears or (module == OUTPUT and card.task != "encode"):
        if flat:
            return "bias"
        return None if module == OUTPUT and card.tied else "weight"
    embedding = any(word in module for word in EMBEDDINGS)
    if flat and (inside_layer(module) or embedding or module in _FINAL_NORMS):
        if _is_norm(module):
            return "norm" if kind == "weight" else "norm bias"
        return "bias" if embedding and kind == "bias" else None
    return "embedding" if embedding and len(card.parameters[name]) == 2 else None


def _is_norm(module: str) -> bool:
    last = module.split(".")[-1].lower()
    return "norm" in last or last.startswith("ln_")
