"""Differences of parameters as changes of the modules that own them, and how to make them.

Refuses to know how a model was tuned.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from rootstock_adapters.base_card import OUTPUT, SHARED, SHARED_BY, BaseCard, weight_files
from rootstock_adapters.delta.spec import DeltaSpec, canonical, is_token_embedding
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.op import Change, Place, Prepared


@dataclass(frozen=True, eq=False)
class Difference(Change):
    """Of one module's parameters, by their names in it and as the base stores them.

    What it does depends on the module: it acts only once it is bound.
    """

    tensors: dict[str, Tensor]  # fp32

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def bind(self, place: Place) -> Change:
        if not place.is_linear:
            values = sum(tensor.numel() for tensor in self.tensors.values())
            own, shifted = place.shifted({}), place.shifted(self.tensors)
            return ShiftedModule(own, shifted, values * place.dtype.itemsize)
        there = {n: t.to(place.norms.device, place.dtype) for n, t in self.tensors.items()}
        weight = there.get("weight")
        if weight is not None and place.transposed:
            weight = weight.T.contiguous()
        return LinearDifference(weight, there.get("bias"))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("a difference acts once it is bound to its place")


@dataclass(frozen=True, eq=False)
class LinearDifference(Change):
    """`y + x Δᵀ + δ`, in the base's dtype."""

    weight: Tensor | None  # [out, in]
    bias: Tensor | None  # [out]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.weight, self.bias) if tensor is not None)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if self.weight is not None:
            return y + F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        assert self.bias is not None
        return y + self.bias


@dataclass(frozen=True, eq=False)
class ShiftedModule(Change):
    """A norm or an embedding with other parameters, seen as a difference of its outputs."""

    own: Callable[[Tensor], Tensor]
    shifted: Callable[[Tensor], Tensor]
    kept_bytes: int

    @property
    def nbytes(self) -> int:
        return self.kept_bytes

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        # Not just what the shifted module gives: another version may have changed y before. In
        # fp32, so that y comes out as the shifted module's own output where none has.
        change = self.shifted(x).float() - self.own(x).float()
        return (y.float() + change).to(y.dtype)


def prepare(spec: DeltaSpec, tensors: dict[str, Tensor]) -> Prepared:
    """`tensors` as the spec names them, any float dtype."""
    modules: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name in spec.parameters:
        module, _, parameter = canonical(name).rpartition(".")
        change = tensors[name].float()
        for path in SHARED_BY if module == SHARED else (module,):
            modules[path][parameter] = change
        if spec.tied_output and is_token_embedding(name):
            modules[OUTPUT]["weight"] = change
    return Prepared(changes={path: (Difference(each),) for path, each in modules.items()})


@torch.inference_mode()
def difference(
    spec: DeltaSpec, card: BaseCard, tuned: Mapping[str, Tensor], base: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`tuned - base` of the spec's parameters, fp32, by the names that the base's files have.

    Both are state dicts of the task model or of its backbone. Raises ArtifactError where one lacks
    a parameter, or where `tuned` differs from `base` in a parameter that the spec leaves alone.
    """
    after, before = _by_canonical_name(card, tuned), _by_canonical_name(card, base)
    differences = {}
    for name in spec.parameters:
        known = canonical(name)
        if known not in after or known not in before:
            raise ArtifactError(f"delta: parameter {name} is missing in one of the two models")
        if after[known].shape != before[known].shape:
            raise ArtifactError(f"delta: parameter {name} has another shape in the tuned model")
        differences[name] = after[known].float() - before[known].float()
    for name in card.parameters.keys() - differences.keys():
        known = canonical(name)
        there = known in after and known in before
        if there and not torch.equal(after[known], before[known]):
            raise ArtifactError(
                f"delta: parameter {name} was changed too, which the scope {spec.scope} leaves out"
            )
    _check_still_tied(card, after)
    return differences


def between_folders(spec: DeltaSpec, card: BaseCard, tuned: Path, base: Path) -> dict[str, Tensor]:
    """As `difference`, of two folders as Hugging Face saves them; also raises BaseError."""
    return difference(spec, card, _state(tuned), _state(base))


def _state(folder: Path) -> dict[str, Tensor]:
    files = weight_files(folder)
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def _by_canonical_name(card: BaseCard, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {canonical(card.module_path(name)): tensor for name, tensor in state.items()}


def _check_still_tied(card: BaseCard, after: Mapping[str, Tensor]) -> None:
    output = after.get(f"{OUTPUT}.weight")
    embedding = next((t for name, t in after.items() if is_token_embedding(name)), None)
    if not card.tied or output is None or embedding is None:
        return
    if not torch.equal(output, embedding):
        raise ArtifactError(
            f"delta: the tuned model's {OUTPUT}.weight is its embedding no more, and on base "
            f"{card.name} it is: tune with tie_word_embeddings"
        )
