"""A module with other parameters than the base's, for a version's own rows.

What acts is the difference, so that updates in slots stand beside it. Refuses to know which kind
asked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from rootstock_adapters.delta.op import Difference
from rootstock_adapters.op import Change, Place


@dataclass(frozen=True, eq=False)
class Replaced(Change):
    """One module's own parameters by their names in it, as the base stores them."""

    tensors: dict[str, Tensor]  # fp32

    @torch.inference_mode()
    def bind(self, place: Place) -> Change:
        """The difference to what `place` has; nothing where there is none.

        PEFT saves an embedding that it targets whole, mostly as it was in the base.
        """
        own = _of_linear(place, self.tensors) if place.is_linear else place.parameters
        differences = {name: new - own[name].float().cpu() for name, new in self.tensors.items()}
        if any(difference.any() for difference in differences.values()):
            return Difference(differences).bind(place)
        return Unchanged()

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("a replaced parameter acts once it is bound to its place")


@dataclass(frozen=True)
class Unchanged(Change):
    """What a version brings for this module is what the base has."""

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return y


def replaced(
    modules: Iterable[str], biases: Iterable[str], tensors: dict[str, Tensor]
) -> dict[str, Replaced]:
    """By module: all that `tensors` have for each of `modules`; of each of `biases` the bias."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for module in modules:
        for name in ("weight", "bias"):
            if f"{module}.{name}" in tensors:
                found[module][name] = tensors[f"{module}.{name}"].float()
    for module in biases:
        found[module]["bias"] = tensors[f"{module}.bias"].float()
    return {module: Replaced(each) for module, each in found.items()}


def _of_linear(place: Place, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    own: dict[str, Tensor] = {}
    if "weight" in tensors:
        inputs = tensors["weight"].shape[0 if place.transposed else 1]
        # The packed weight comes out as its product with the identity, which rounds nothing.
        weight = place.product(torch.eye(inputs, device=place.norms.device))
        own["weight"] = weight if place.transposed else weight.T
    if "bias" in tensors:
        if place.bias is None:
            raise ValueError("the base has no bias there")
        own["bias"] = place.bias
    return own
