"""The attentions of encoder-decoders that no paged cache serves: to the source, and T5's own.

One product per row, in plain torch on the base's own device. Refuses to know who asks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rootstock_server.backends.step import Row, Step


class SourceAttention:
    """Attention of one decoder layer to what each row's memory holds of its source."""

    def __init__(self, layer: int, to_key: nn.Module, to_value: nn.Module, head_dim: int) -> None:
        self._layer, self._head_dim = layer, head_dim
        self._to_key, self._to_value = to_key, to_value
        self.heads_width: int = to_key.out_features  # of all heads together

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's output [T, D] → keys and values [H, T, head_dim] of this layer.

        Runs inside the encoder's step, so that its rows' adapters change these linears, too.
        """
        return tuple(
            linear(hidden).unflatten(-1, (-1, self._head_dim)).transpose(0, 1)
            for linear in (self._to_key, self._to_value)
        )

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, step: Step, scaling: float) -> Tensor:
        """`q` [H, T, head_dim] → [T, H, head_dim]; `k` and `v` stand for nothing."""
        parts = []
        for row, memory in zip(step.rows, step.memories, strict=True):
            if memory is None or not memory.source:
                raise RuntimeError("a decoder's row needs its source read before")
            keys, values = memory.source[self._layer]
            parts.append(_attend(q[:, row.start : row.stop], keys, values, None, scaling))
        return torch.cat(parts)


class RelativeBias:
    """T5's learned bias by distance (arXiv 1910.10683, section 2.1), per row and position."""

    def __init__(self, attention: nn.Module) -> None:
        self._table = attention.relative_attention_bias  # [buckets] → [H]
        self._bucket = attention._relative_position_bucket
        self._buckets: int = attention.relative_attention_num_buckets
        self._distance: int = attention.relative_attention_max_distance
        self.causal: bool = attention.is_decoder

    def of(self, step: Step, row: Row) -> Tensor:
        """[H, t, L] for the row's t new tokens against all L so far; -inf on the unseen."""
        name = ("relative", row.start)
        if name not in step.scratch:
            device = self._table.weight.device
            keys = torch.arange(row.kv_length, device=device)
            queries = keys[row.kv_length - row.tokens :, None]
            buckets = self._bucket(
                keys - queries,
                bidirectional=not self.causal,
                num_buckets=self._buckets,
                max_distance=self._distance,
            )
            bias = self._table(buckets).permute(2, 0, 1)
            if self.causal:
                bias = bias.masked_fill(keys > queries, float("-inf"))
            step.scratch[name] = bias
        return step.scratch[name]


class RelativeAttention:
    """Attention of a layer to its own row. A decoder's keys and values stay in the memory."""

    def __init__(self, layer: int, bias: RelativeBias) -> None:
        self._layer, self._bias = layer, bias

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, step: Step, scaling: float) -> Tensor:
        """`q`, `k`, `v` [H, T, head_dim] → [T, H, head_dim]."""
        parts = []
        for row, memory in zip(step.rows, step.memories, strict=True):
            tokens = slice(row.start, row.stop)
            keys, values = k[:, tokens], v[:, tokens]
            if self._bias.causal:
                if memory is None:
                    raise RuntimeError("a decoder's row needs a memory")
                keys, values = memory.extend(self._layer, keys, values)
            bias = self._bias.of(step, row)
            parts.append(_attend(q[:, tokens], keys, values, bias, scaling))
        return torch.cat(parts)


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
    """[H, t, d] over [H, L, d] → [t, H, d]."""
    mask = None if bias is None else bias[None]
    out = F.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=mask, scale=scaling)
    return out[0].transpose(0, 1)
