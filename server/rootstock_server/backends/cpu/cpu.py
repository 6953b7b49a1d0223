"""The CPU backend: kernels in C++ where torch has no good product, the reference elsewhere.

Letters: T tokens, D head size, R rank, S slots, M linears of a group, H heads, B blocks.
Refuses to know how the kernels are compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rootstock_server.backends.backend import LinearWeights
from rootstock_server.backends.cpu.build import library
from rootstock_server.backends.cpu.layout import table
from rootstock_server.backends.cpu.recordings import Recordings
from rootstock_server.backends.fused import Pointwise, fuse
from rootstock_server.backends.kv_cache import BLOCK_TOKENS, KvCache
from rootstock_server.backends.reference import Reference, stack
from rootstock_server.backends.step import Attachment, Step

DTYPES = (torch.float32, torch.bfloat16)


def available() -> bool:
    """Whether kernels for this torch were built; loads them."""
    if not hasattr(torch.ops.rootstock_cpu, "delta"):
        path = library()
        if not path.exists():
            return False
        torch.ops.load_library(path)
    return True


PANEL = 16


@dataclass(frozen=True)
class Panels(LinearWeights):
    """Weights as the kernel reads them: [out/16, in/2, 16, 2], `bias` padded to whole panels."""

    out: int


class Cpu(Reference):
    """The `Backend` of a CPU. Its methods are documented there."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.name = f"cpu/{torch.ops.rootstock_cpu.used_isa()}"
        self.recordings = Recordings()

    def adopt(self, backbone: nn.Module) -> None:
        ops = torch.ops.rootstock_cpu
        # The overload, not the name: looking it up each time takes longer than a small norm.
        fuse(backbone, Pointwise(ops.rms_norm.default, ops.rotate.default, ops.gated.default))

    def run(self, step: Step, forward: Callable[[Step], Tensor]) -> Tensor:
        return self.recordings.run(step, forward)

    def linear_prepare(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
    ) -> LinearWeights:
        """In our panels where there is a product for them, as the reference has it elsewhere."""
        dtype, width = weights[0].dtype, weights[0].shape[1]
        if dtype != torch.bfloat16 or width % 2 or not torch.ops.rootstock_cpu.has_linear():
            return super().linear_prepare(weights, biases)
        stacked, bias = stack(weights, biases)
        out = len(stacked)
        beyond = -out % PANEL
        panels = F.pad(stacked, (0, 0, 0, beyond)).view(-1, PANEL, width // 2, 2).transpose(1, 2)
        bias = None if bias is None else F.pad(bias, (0, beyond))
        return Panels(panels.contiguous(), bias, packed=True, out=out)

    def linear(self, weights: LinearWeights, x: Tensor) -> Tensor:
        if not isinstance(weights, Panels):
            return super().linear(weights, x)
        y: Tensor = torch.ops.rootstock_cpu.linear.default(
            x, weights.weight, weights.bias, weights.out
        )
        return y

    def slot_zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype)  # the base's own: half the bytes are half the time

    def delta(self, ys: Sequence[Tensor], x: Tensor, group: int, attachment: Attachment) -> None:
        arrays = attachment.arrays
        down = arrays.down.get(group)
        if down is not None:
            torch.ops.rootstock_cpu.delta.default(
                ys, x, down, arrays.up[group],
                attachment.runs, attachment.ranks, attachment.scales,
            )  # fmt: skip

    def new_cache(
        self, layers: int, blocks: int, heads: int, head_dim: int, dtype: torch.dtype
    ) -> KvCache:
        return SidewaysKvCache(layers, blocks, heads, head_dim, dtype)

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        layer: int,
        step: Step,
        scaling: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        cache = step.cache
        if cache is None:
            raise RuntimeError("causal attention needs a cache in the step")
        rows, blocks = table(step)
        out: Tensor = torch.ops.rootstock_cpu.attend.default(
            query, key, value, cache.keys[layer], cache.values[layer],
            rows, blocks, scaling, window or 0, softcap or 0.0,
        )  # fmt: skip
        return out


class SidewaysKvCache(KvCache):
    """A cache whose keys lie [B, H, D, 32]: the scores of 32 positions are then D vector products.

    Values stay [B, H, 32, D].
    """

    def __init__(self, layers: int, blocks: int, heads: int, head_dim: int, dtype: torch.dtype):
        super().__init__(layers, blocks, heads, head_dim, dtype)
        self.keys = [keys.view(blocks, heads, head_dim, BLOCK_TOKENS) for keys in self.keys]

    def write(self, layer: int, key: Tensor, value: Tensor, index: Tensor) -> None:
        keys = self.keys[layer].view(-1, self.head_dim, BLOCK_TOKENS)
        block, place = index // BLOCK_TOKENS, index % BLOCK_TOKENS
        keys[block, :, place] = key.reshape(-1, self.head_dim)
        self.values[layer].view(-1, self.head_dim).index_copy_(
            0, index, value.reshape(-1, self.head_dim)
        )

    def gather(self, layer: int, index: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = super().gather(layer, index)
        sideways = keys.reshape(*index.shape, self.head_dim, BLOCK_TOKENS)
        return sideways.transpose(3, 4).reshape(values.shape), values
