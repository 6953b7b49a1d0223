"""8-bit linears with our own kernel: a row is quantized, multiplied and scaled back in one call.

oneDNN's product, which it stands in for, needs eight calls of torch around each. Refuses to know
what a base is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rootstock_server.backends.backend import LinearWeights
from rootstock_server.backends.cpu.cpu import PANEL, Cpu
from rootstock_server.backends.int8 import Int8, quantized
from rootstock_server.backends.reference import stack

QUADS = 4  # inputs of one product
ZERO = 128  # of a row in 8 bits, as the kernel writes it


@dataclass(frozen=True)
class Int8Panels(LinearWeights):
    """`weight` [out/16, in/4, 16, 4] int8; all else [out], padded to whole panels.

    `begins` [out] int32 is minus 128 times the sum of an output's weights: rows are unsigned.
    """

    scales: Tensor
    begins: Tensor
    out: int


class CpuInt8(Int8):
    """`Int8` on the C++ kernels, for linears of a multiple of four inputs."""

    def __init__(self, inner: Cpu) -> None:
        super().__init__(inner)

    def linear_prepare(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
    ) -> LinearWeights:
        if weights[0].shape[1] % QUADS:
            return super().linear_prepare(weights, biases)
        weight, bias = stack(weights, biases)
        rows, scales = quantized(weight)
        out, width = rows.shape
        beyond = -out % PANEL
        begins = rows.sum(1, dtype=torch.int32) * -ZERO
        panels = F.pad(rows, (0, 0, 0, beyond)).view(-1, PANEL, width // QUADS, QUADS)
        return Int8Panels(
            panels.transpose(1, 2).contiguous(),
            None if bias is None else F.pad(bias.float(), (0, beyond)),
            packed=True,
            scales=F.pad(scales, (0, beyond)),
            begins=F.pad(begins, (0, beyond)),
            out=out,
        )

    def linear(self, weights: LinearWeights, x: Tensor) -> Tensor:
        if not isinstance(weights, Int8Panels):
            return super().linear(weights, x)
        y: Tensor = torch.ops.rootstock_cpu.linear8.default(
            x, weights.weight, weights.scales, weights.begins, weights.bias, weights.out
        )
        return y
