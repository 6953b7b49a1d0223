"""LoRA's weights as the low-rank updates and changes that an engine attaches to modules.

Refuses to know where they will be resident.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rootstock_adapters.lora.spec import LoraSpec
from rootstock_adapters.op import Change, LowRank, Place, Prepared
from rootstock_adapters.replaced.op import Replaced, replaced


@dataclass(frozen=True, eq=False)
class EmbeddedUpdate(Change):
    """`y + scale · up · down[token]`; `scale` is Gemma's, which multiplies its embeddings."""

    down: Tensor  # [rows, R] fp32
    up: Tensor  # [D, R] fp32, scaling folded in

    @property
    def nbytes(self) -> int:
        return self.down.nbytes + self.up.nbytes

    def bind(self, place: Place) -> Change:
        if place.is_linear:
            raise ValueError("an update of an embedding was made for what is a linear here")
        device = place.parameters["weight"].device
        return EmbeddedUpdate(self.down.to(device), self.up.to(device) * place.scale)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return (y + F.linear(F.embedding(x, self.down), self.up)).to(y.dtype)


@dataclass(frozen=True, eq=False)
class Magnitude(Change):
    """DoRA: the rows of `W + up · down` brought to the lengths `magnitude`, the bias untouched.

    Runs after the update itself and after what replaces `W` or the bias (`own`).
    """

    magnitude: Tensor  # [out] fp32
    update: LowRank
    own: Replaced | None = None

    combinable = False

    @property
    def nbytes(self) -> int:
        return self.magnitude.nbytes

    @torch.inference_mode()
    def bind(self, place: Place) -> Change:
        gains = self.magnitude.to(place.norms.device) / self._norms(place)
        bias = self.own.tensors.get("bias") if self.own else None
        if bias is None:
            bias = place.bias
        rest = None if bias is None else bias.to(gains) * (1 - gains)
        return Rescaled(gains, rest)

    def _norms(self, place: Place) -> Tensor:
        """[out] `‖W + BA‖ = √(‖W‖² + 2 Σ B∘(W Aᵀ) + ‖BA‖²)` by rows; `W` itself is packed."""
        device = place.norms.device
        down, up = self.update.down.to(device), self.update.up.to(device)
        weight = self.own.tensors.get("weight") if self.own else None
        if weight is None:
            squares, images = place.norms.square(), place.product(down).float().T
        else:
            weight = (weight.T if place.transposed else weight).to(device)
            squares, images = weight.square().sum(1), weight @ down.T
        cross = (up * images).sum(1)
        update = (up @ (down @ down.T) * up).sum(1)
        return (squares + 2 * cross + update).clamp(min=0).sqrt()

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("a magnitude acts once it is bound to its linear")


@dataclass(frozen=True, eq=False)
class Rescaled(Change):
    """`y ∘ gains + rest`."""

    gains: Tensor  # [out] fp32
    rest: Tensor | None  # [out] fp32: what gives the bias back

    combinable = False

    @property
    def nbytes(self) -> int:
        return self.gains.nbytes + (0 if self.rest is None else self.rest.nbytes)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        scaled = y * self.gains
        return (scaled if self.rest is None else scaled + self.rest).to(y.dtype)


def prepare(spec: LoraSpec, tensors: dict[str, Tensor]) -> Prepared:
    """`tensors` as the spec names them, any float dtype; scaling is folded into `up` in fp32."""
    linears: dict[str, LowRank] = {}
    changes: dict[str, list[Change]] = defaultdict(list)
    own = replaced(spec.modules_to_save, spec.biases, tensors)
    for module, change in own.items():
        changes[module].append(change)
    for module in spec.target_modules:
        if f"{module}.lora_embedding_A" in tensors:
            down = tensors[f"{module}.lora_embedding_A"].float().T.contiguous()
            up = tensors[f"{module}.lora_embedding_B"].float() * spec.scaling(module)
            changes[module].append(EmbeddedUpdate(down, up))
            continue
        down = tensors[f"{module}.lora_A.weight"].float()
        up = tensors[f"{module}.lora_B.weight"].float() * spec.scaling(module)
        linears[module] = LowRank(down, up)
        if spec.use_dora:
            magnitude = tensors[f"{module}.lora_magnitude_vector"].float()
            changes[module].append(Magnitude(magnitude, linears[module], own.get(module)))
    return Prepared(linears, {path: tuple(each) for path, each in changes.items()})
