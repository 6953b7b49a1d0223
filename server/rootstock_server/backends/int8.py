"""Base weights in 8 bits, per output channel; activations are quantized anew for every product.

Only the frozen linears change: adapters, norms, embeddings and the cache keep the base's dtype.
Refuses to know which backend computes everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rootstock_server.backends.backend import Backend, LinearWeights, stacked


@dataclass(frozen=True)
class Int8Weights(LinearWeights):
    """FBGEMM's own layout of int8 rows and their scales, with the bias inside."""

    quantized: Any


class Int8:
    """A `Backend` whose linears hold a half (of bf16) or a quarter (of fp32) of the bytes.

    Symmetric weights per output channel and dynamic activations per tensor, as in
    Jacob et al., arXiv 1712.05877; what that costs is measured when a base is loaded.
    """

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name = f"{inner.name}+int8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def linear_prepare(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
    ) -> Int8Weights:
        weight, bias = stacked(weights, biases)
        weight = weight.float()
        scales = (weight.abs().amax(dim=1).double() / 127).clamp_min(1e-12)
        zeros = torch.zeros(len(weight), dtype=torch.long)
        rows = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        packed = torch.ops.quantized.linear_prepack(rows, None if bias is None else bias.float())
        return Int8Weights(weight[:0], None, False, packed)

    def linear(self, weights: LinearWeights, x: Tensor) -> Tensor:
        assert isinstance(weights, Int8Weights)
        # Seven bits of activations: products of eight overflow 16-bit sums on CPUs without VNNI.
        y: Tensor = torch.ops.quantized.linear_dynamic(
            x.float(), weights.quantized, not torch.cpu._is_vnni_supported()
        )
        return y.to(x.dtype)
