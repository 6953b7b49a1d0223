"""Base weights in 8 bits, per output channel; activations are quantized anew, row by row.

Only the frozen linears change: adapters, norms, embeddings and the cache keep the base's dtype.
Refuses to know which backend computes everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rootstock_server.backends.backend import Backend, LinearWeights
from rootstock_server.backends.reference import stack

# Without VNNI, two products are added in 16 bits: no activation may be over 127, zero's included.
STEPS = 127 if torch.cpu._is_vnni_supported() else 63
ZERO = STEPS + 1  # unsigned: oneDNN has no fast product of signed activations


@dataclass(frozen=True)
class Int8Weights(LinearWeights):
    """`weight` in oneDNN's own layout of int8."""

    scales: Tensor  # [sum(outs)] fp32
    zeros: Tensor  # [sum(outs)] int64: the weights are symmetric


class Int8:
    """A `Backend` whose linears hold a half (of bf16) or a quarter (of fp32) of the bytes.

    Symmetric weights per output channel, as in Jacob et al., arXiv 1712.05877. Every row of the
    activations has its own scale: with one for all of them, which is what torch's dynamic linears
    have, a request's answer would depend on its neighbours.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name = f"{inner.name}+int8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def linear_prepare(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
    ) -> Int8Weights:
        weight, bias = stack(weights, biases)
        rows, scales = quantized(weight)
        packed = torch.ops.onednn.qlinear_prepack(rows, [16, weight.shape[1]])
        zeros = torch.zeros(len(weight), dtype=torch.long)
        return Int8Weights(packed, bias, True, scales, zeros)

    def linear(self, weights: LinearWeights, x: Tensor) -> Tensor:
        assert isinstance(weights, Int8Weights)
        scale = (x.abs().amax(dim=1, keepdim=True).float() / STEPS).clamp_min(1e-12)
        rows = (x / scale).round_().add_(ZERO).to(torch.uint8)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            rows, 1.0, ZERO, weights.weight, weights.scales, weights.zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        y = (y * scale).to(x.dtype)
        return y if weights.bias is None else y + weights.bias


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """`weight` [out, in] as int8 [out, in], and the fp32 scale [out] of each output."""
    weight = weight.float()
    scales = (weight.abs().amax(dim=1) / 127).clamp_min(1e-12)
    return (weight / scales[:, None]).round().to(torch.int8), scales
