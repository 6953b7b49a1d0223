"""The arithmetic in plain torch: the truth that faster backends are tested against.

Letters: T tokens, D head size, R rank, S slots, M linears of a group, H heads, B blocks.
Refuses to know what a slot holds and who asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rootstock_server.backends.backend import LinearWeights
from rootstock_server.backends.kv_cache import KvCache, gather_index, write_index
from rootstock_server.backends.step import Attachment, Row, Segment, SlotGrid, Step


class Reference:
    """The `Backend` that runs wherever torch does. Its methods are documented there."""

    name = "reference"

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)

    def adopt(self, backbone: nn.Module) -> None:
        """Nothing: plain torch runs the base's own modules."""

    def run(self, step: Step, forward: Callable[[Step], Tensor]) -> Tensor:
        return forward(step)

    def linear_prepare(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
    ) -> LinearWeights:
        """Stacked, and prepacked for oneDNN where that is possible."""
        weight, bias = stack(weights, biases)
        if weight.device.type != "cpu" or not packing_works(weight.dtype):
            return LinearWeights(weight, bias, packed=False)
        # 16 is the batch size it is laid out for; 1 packs fp32 no better than not at all.
        weight = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
        return LinearWeights(weight, bias, packed=True)

    def linear(self, weights: LinearWeights, x: Tensor) -> Tensor:
        if weights.packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(
                x, weights.weight, weights.bias, "none", [], ""
            )
            return y
        return F.linear(x, weights.weight, weights.bias)

    def slot_zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        # fp32 whatever the base's dtype: small fp32 products are 5 times faster than bf16 ones on
        # CPU, and the update keeps its precision.
        return torch.zeros(shape, device=self.device)

    def delta(self, ys: Sequence[Tensor], x: Tensor, group: int, attachment: Attachment) -> None:
        arrays = attachment.arrays
        down = arrays.down.get(group)
        if down is None:  # no resident adapter touches this group
            return
        if attachment.grid is not None:
            _delta_grid(ys, x, down, arrays.up[group], attachment.grid, attachment.scales)
            return
        for segment in attachment.segments:
            _delta_segment(ys, x, down, arrays.up[group], segment, attachment.scales)

    def new_cache(
        self, layers: int, blocks: int, heads: int, head_dim: int, dtype: torch.dtype
    ) -> KvCache:
        return KvCache(layers, blocks, heads, head_dim, dtype)

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
        cache.write(layer, key, value, write_index(step, cache))
        parts = []
        if step.decode_rows:
            keys, values = cache.gather(layer, gather_index(step, cache, 0, step.decode_rows))
            # [rows, Hq, D] → [rows, H, Hq/H, D]: the queries that share a key head side by side
            q = query[:, : step.decode_rows].transpose(0, 1)
            q = q.reshape(step.decode_rows, cache.heads, -1, cache.head_dim)
            mask = _decode_mask(step, keys.shape[2], window)
            out = _plain_attention(q, keys, values, mask, scaling, softcap)
            parts.append(out.reshape(step.decode_rows, -1, cache.head_dim))
        for number, row in enumerate(step.rows[step.decode_rows :], start=step.decode_rows):
            tokens = slice(row.start, row.stop)
            if row.tokens == row.kv_length:
                keys, values = key[None, :, tokens], value[None, :, tokens]
            else:
                keys, values = cache.gather(layer, gather_index(step, cache, number, number + 1))
                keys, values = keys[:, :, : row.kv_length], values[:, :, : row.kv_length]
            groups = query.shape[0] // cache.heads
            keys, values = _repeat(keys, groups), _repeat(values, groups)
            mask = _chunk_mask(step, row, window)
            out = _softmax_attention(query[None, :, tokens], keys, values, mask, scaling, softcap)
            parts.append(out[0].transpose(0, 1))
        return torch.cat(parts)

    def attend_bidirectional(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        step: Step,
        scaling: float,
        window: int | None,
    ) -> Tensor:
        rows = step.rows
        length = rows[0].tokens
        if window is None and all(row.tokens == length for row in rows):
            q, k, v = (
                t.unflatten(1, (len(rows), length)).transpose(0, 1) for t in (query, key, value)
            )
            out = _softmax_attention(q, k, v, None, scaling, None)  # [rows, H, L, D]
            return out.transpose(1, 2).flatten(0, 1)
        parts = []
        for row in rows:
            tokens = slice(row.start, row.stop)
            mask = None
            if window is not None:
                position = torch.arange(row.tokens, device=query.device)
                mask = (position[:, None] - position[None]).abs() <= window - 1
            q, k, v = (t[None, :, tokens] for t in (query, key, value))
            parts.append(_softmax_attention(q, k, v, mask, scaling, None)[0].transpose(0, 1))
        return torch.cat(parts)


def stack(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    """Linears with one input as one: [sum(outs), in] and, where any has a bias, [sum(outs)]."""
    weight = torch.cat([w.detach() for w in weights]).contiguous()
    if all(b is None for b in biases):
        return weight, None
    parts = [
        w.new_zeros(len(w)) if b is None else b.detach()
        for w, b in zip(weights, biases, strict=True)
    ]
    return weight, torch.cat(parts)


def packing_works(dtype: torch.dtype) -> bool:
    """Whether oneDNN's prepacked linear is there and agrees with F.linear for `dtype`.

    The ops are private to torch, so they are probed, never assumed.
    """
    x, weight = torch.randn(4, 64, dtype=dtype), torch.randn(32, 64, dtype=dtype)
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, 16)
        y = torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")
    except (RuntimeError, AttributeError):
        return False
    return torch.allclose(y.float(), F.linear(x, weight).float(), atol=1e-4, rtol=2e-2)


def _delta_segment(
    ys: Sequence[Tensor],
    x: Tensor,
    down: Tensor,
    ups: Sequence[Tensor],
    segment: Segment,
    scales: Tensor | None,
) -> None:
    tokens, slot = slice(segment.start, segment.stop), segment.slot
    rank = ups[0].shape[1]
    x = x[tokens].float()
    if scales is not None:
        x = x * scales[tokens, None]
    hidden = x @ down[slot].T  # [t, M·R]
    for m, (y, up) in enumerate(zip(ys, ups, strict=True)):
        y[tokens] += (hidden[:, m * rank : (m + 1) * rank] @ up[slot]).to(y.dtype)


def _delta_grid(
    ys: Sequence[Tensor],
    x: Tensor,
    down: Tensor,
    ups: Sequence[Tensor],
    grid: SlotGrid,
    scales: Tensor | None,
) -> None:
    rank = ups[0].shape[1]
    down = down[grid.slots]
    x = x[grid.tokens].float()
    if scales is not None:
        x = x * scales[grid.tokens, None]
    if grid.cells is not None:
        cells = x.new_zeros(len(down) * grid.width, x.shape[1])
        x = cells.index_copy_(0, grid.cells, x)
    hidden = torch.bmm(x.view(len(down), grid.width, -1), down.transpose(1, 2))
    for m, (y, up) in enumerate(zip(ys, ups, strict=True)):
        update = torch.bmm(hidden[:, :, m * rank : (m + 1) * rank], up[grid.slots]).flatten(0, 1)
        if grid.cells is not None:
            update = update.index_select(0, grid.cells)
        y[grid.tokens] += update.to(y.dtype)


def _softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, softcap: float | None
) -> Tensor:
    if softcap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    return _plain_attention(q, k, v, mask, scaling, softcap)


def _plain_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, softcap: float | None
) -> Tensor:
    """Two products and a softmax: for one query a row, a third of the time of the fused one."""
    scores = (q @ k.transpose(-1, -2)).mul_(scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype) @ v


def _repeat(heads: Tensor, groups: int) -> Tensor:
    """[1, H, L, D] → [1, H·groups, L, D], each head `groups` times in a row."""
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)


def _decode_mask(step: Step, length: int, window: int | None) -> Tensor:
    name = ("decode", window)
    if name not in step.scratch:
        ends = torch.tensor([row.kv_length for row in step.rows[: step.decode_rows]])[:, None]
        position = torch.arange(length)[None]
        mask = position < ends
        if window:
            mask &= position >= ends - window
        step.scratch[name] = mask[:, None, None]
    return step.scratch[name]


def _chunk_mask(step: Step, row: Row, window: int | None) -> Tensor:
    name = ("chunk", row.start, window)
    if name not in step.scratch:
        queries = torch.arange(row.kv_length - row.tokens, row.kv_length)[:, None]
        position = torch.arange(row.kv_length)[None]
        mask = position <= queries
        if window:
            mask &= position > queries - window
        step.scratch[name] = mask
    return step.scratch[name]
