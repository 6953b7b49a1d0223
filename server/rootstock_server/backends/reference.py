"""The arithmetic in plain torch: the truth that faster backends are tested against.

Letters: T tokens, D head size, R rank, S slots, M linears of a group, H heads, B blocks.
Refuses to know what a slot holds and who asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from rootstock_server.backends.step import Attachment, Row, Segment, SlotGrid, Step

BLOCK_TOKENS = 32


@dataclass(frozen=True)
class LinearWeights:
    """One or several linears with one input, their rows stacked: [sum(outs), in]."""

    weight: Tensor
    bias: Tensor | None
    packed: bool  # weight is in oneDNN's own opaque layout


@dataclass
class SlotArrays:
    """Low-rank updates of every slot of one rank bucket, one pair of arrays per linear group.

    Kept in fp32 whatever the base's dtype: small fp32 products are 5 times faster than bf16 ones
    on CPU, and the update keeps its precision.
    """

    rank: int
    down: dict[int, Tensor]  # group → [S, M·R, in]
    up: dict[int, list[Tensor]]  # group → M of [S, R, out_m]


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


def linear_prepare(weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> LinearWeights:
    """Stack linears ([out_m, in] each) that share their input, and prepack them where possible."""
    weight = torch.cat([w.detach() for w in weights]).contiguous()
    bias = None
    if any(b is not None for b in biases):
        parts = [
            torch.zeros(len(w), dtype=w.dtype) if b is None else b.detach()
            for w, b in zip(weights, biases, strict=True)
        ]
        bias = torch.cat(parts)
    if weight.device.type != "cpu" or not packing_works(weight.dtype):
        return LinearWeights(weight, bias, packed=False)
    # 16 is the batch size oneDNN lays the weight out for; 1 packs fp32 no better than not at all.
    return LinearWeights(torch.ops.mkldnn._reorder_linear_weight(weight, 16), bias, packed=True)


def linear(weights: LinearWeights, x: Tensor) -> Tensor:
    """`x` [T, in] → [T, sum(outs)]."""
    if weights.packed:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, weights.weight, weights.bias, "none", [], ""
        )
        return y
    return F.linear(x, weights.weight, weights.bias)


def delta(ys: Sequence[Tensor], x: Tensor, group: int, attachment: Attachment) -> None:
    """Add each slot's low-rank update to the outputs of one linear group, in place.

    `ys` are M views [T, out_m] of the group's output, `x` is its input [T, in].
    """
    arrays = attachment.arrays
    down = arrays.down.get(group)
    if down is None:  # no resident adapter touches this group
        return
    if attachment.grid is not None:
        _delta_grid(ys, x, down, arrays.up[group], attachment.grid)
        return
    for segment in attachment.segments:
        _delta_segment(ys, x, down, arrays.up[group], segment)


def _delta_segment(
    ys: Sequence[Tensor], x: Tensor, down: Tensor, ups: Sequence[Tensor], segment: Segment
) -> None:
    tokens, slot = slice(segment.start, segment.stop), segment.slot
    rank = ups[0].shape[1]
    hidden = x[tokens].float() @ down[slot].T  # [t, M·R]
    for m, (y, up) in enumerate(zip(ys, ups, strict=True)):
        y[tokens] += (hidden[:, m * rank : (m + 1) * rank] @ up[slot]).to(y.dtype)


def _delta_grid(
    ys: Sequence[Tensor], x: Tensor, down: Tensor, ups: Sequence[Tensor], grid: SlotGrid
) -> None:
    rank = ups[0].shape[1]
    down = down[grid.slots]
    x = x[grid.tokens].float()
    if grid.cells is not None:
        cells = x.new_zeros(len(down) * grid.width, x.shape[1])
        x = cells.index_copy_(0, grid.cells, x)
    hidden = torch.bmm(x.view(len(down), grid.width, -1), down.transpose(1, 2))
    for m, (y, up) in enumerate(zip(ys, ups, strict=True)):
        update = torch.bmm(hidden[:, :, m * rank : (m + 1) * rank], up[grid.slots]).flatten(0, 1)
        if grid.cells is not None:
            update = update.index_select(0, grid.cells)
        y[grid.tokens] += update.to(y.dtype)


class KvCache:
    """Keys and values of all layers in blocks of 32 tokens, head-major: [B, H, 32, D].

    Head-major blocks make the gather of a sequence one copy of 32·D values per block and head.
    """

    def __init__(self, layers: int, blocks: int, heads: int, head_dim: int, dtype: torch.dtype):
        shape = (blocks, heads, BLOCK_TOKENS, head_dim)
        # Zeros, not empty: masked positions are multiplied by zero, and zero times NaN is NaN.
        self.keys = [torch.zeros(shape, dtype=dtype) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype) for _ in range(layers)]
        self.blocks, self.heads, self.head_dim = blocks, heads, head_dim
        self._scratch: dict[str, Tensor] = {}

    @staticmethod
    def block_bytes(layers: int, heads: int, head_dim: int, dtype: torch.dtype) -> int:
        return 2 * layers * heads * BLOCK_TOKENS * head_dim * dtype.itemsize

    def clear(self, blocks: Sequence[int]) -> None:
        """Overwrite blocks that may hold values which are not finite."""
        for layer in (*self.keys, *self.values):
            layer[list(blocks)] = 0

    def write(self, layer: int, key: Tensor, value: Tensor, index: Tensor) -> None:
        """`key`, `value` [H, T, D] go to flat positions `index` [H·T] of the blocks."""
        for store, new in ((self.keys[layer], key), (self.values[layer], value)):
            store.view(-1, self.head_dim).index_copy_(0, index, new.reshape(-1, self.head_dim))

    def gather(self, layer: int, index: Tensor) -> tuple[Tensor, Tensor]:
        """`index` [rows, H, blocks] of block·head numbers → keys and values [rows, H, L, D].

        The result lives in a buffer that the next call overwrites: fresh large tensors are slow.
        """
        return (
            self._gathered("keys", self.keys[layer], index),
            self._gathered("values", self.values[layer], index),
        )

    def _gathered(self, name: str, store: Tensor, index: Tensor) -> Tensor:
        width = BLOCK_TOKENS * self.head_dim
        buffer = self._scratch.get(name)
        if buffer is None or len(buffer) < index.numel():
            buffer = self._scratch[name] = store.new_zeros(index.numel(), width)
        out = buffer[: index.numel()]
        torch.index_select(store.view(-1, width), 0, index.flatten(), out=out)
        return out.view(*index.shape[:2], -1, self.head_dim)


def attend(
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
    """Causal attention of a packed step over the paged cache.

    `query` [Hq, T, D], `key` and `value` [H, T, D] → [T, Hq, D]. Writes the step's keys and values
    first. `window` counts the token itself; `softcap` is Gemma 2's (arXiv 2408.00118).
    """
    cache = step.cache
    if cache is None:
        raise RuntimeError("causal attention needs a cache in the step")
    cache.write(layer, key, value, _write_index(step, cache))
    parts = []
    if step.decode_rows:
        keys, values = cache.gather(layer, _gather_index(step, cache, 0, step.decode_rows))
        # [rows, Hq, D] → [rows, H, Hq/H, D]: the queries that share a key head side by side
        q = query[:, : step.decode_rows].transpose(0, 1)
        q = q.reshape(step.decode_rows, cache.heads, -1, cache.head_dim)
        mask = _decode_mask(step, keys.shape[2], window)
        out = _softmax_attention(q, keys, values, mask, scaling, softcap)
        parts.append(out.reshape(step.decode_rows, -1, cache.head_dim))
    for number, row in enumerate(step.rows[step.decode_rows :], start=step.decode_rows):
        tokens = slice(row.start, row.stop)
        if row.tokens == row.kv_length:
            keys, values = key[None, :, tokens], value[None, :, tokens]
        else:
            keys, values = cache.gather(layer, _gather_index(step, cache, number, number + 1))
            keys, values = keys[:, :, : row.kv_length], values[:, :, : row.kv_length]
        groups = query.shape[0] // cache.heads
        keys, values = _repeat(keys, groups), _repeat(values, groups)
        mask = _chunk_mask(step, row, window)
        out = _softmax_attention(query[None, :, tokens], keys, values, mask, scaling, softcap)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


def attend_bidirectional(
    query: Tensor, key: Tensor, value: Tensor, *, step: Step, scaling: float, window: int | None
) -> Tensor:
    """Attention of packed encoder rows, each over itself only. [H, T, D] → [T, H, D].

    `window` is ModernBERT's: a token sees `window - 1` others on either side.
    """
    rows = step.rows
    length = rows[0].tokens
    if window is None and all(row.tokens == length for row in rows):
        q, k, v = (t.unflatten(1, (len(rows), length)).transpose(0, 1) for t in (query, key, value))
        out = _softmax_attention(q, k, v, None, scaling, None)  # [rows, H, L, D]
        return out.transpose(1, 2).flatten(0, 1)
    parts = []
    for row in rows:
        tokens = slice(row.start, row.stop)
        mask = None
        if window is not None:
            position = torch.arange(row.tokens)
            mask = (position[:, None] - position[None]).abs() <= window - 1
        q, k, v = (t[None, :, tokens] for t in (query, key, value))
        parts.append(_softmax_attention(q, k, v, mask, scaling, None)[0].transpose(0, 1))
    return torch.cat(parts)


def _softmax_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float, softcap: float | None
) -> Tensor:
    if softcap is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling)
    scores = torch.tanh(q @ k.transpose(-1, -2) * scaling / softcap) * softcap
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype) @ v


def _repeat(heads: Tensor, groups: int) -> Tensor:
    """[1, H, L, D] → [1, H·groups, L, D], each head `groups` times in a row."""
    return heads if groups == 1 else heads.repeat_interleave(groups, dim=1)


def _write_index(step: Step, cache: KvCache) -> Tensor:
    """Flat position of every new key in `store.view(-1, D)`: [H·T], head by head."""
    if "write" not in step.scratch:
        # In Python and then one tensor: a few tensors per row cost more than the whole attention.
        first_head = [
            row.blocks[position // BLOCK_TOKENS] * cache.heads * BLOCK_TOKENS
            + position % BLOCK_TOKENS
            for row in step.rows
            for position in range(row.kv_length - row.tokens, row.kv_length)
        ]
        heads = torch.arange(cache.heads)[:, None] * BLOCK_TOKENS
        step.scratch["write"] = (torch.tensor(first_head) + heads).flatten()
    return step.scratch["write"]


def _gather_index(step: Step, cache: KvCache, first: int, last: int) -> Tensor:
    """Block·head numbers of rows `first:last`: [rows, H, blocks].

    Short rows are padded with their own first block. It is masked, but NaN times zero is NaN, so
    a row must never read a block of another.
    """
    name = ("gather", first, last)
    if name not in step.scratch:
        rows = step.rows[first:last]
        needed = max(-(-row.kv_length // BLOCK_TOKENS) for row in rows)
        padded = []
        for row in rows:
            used = row.blocks[: -(-row.kv_length // BLOCK_TOKENS)]
            padded.append([*used, *used[:1] * (needed - len(used))])
        table = torch.tensor(padded)
        heads = torch.arange(cache.heads)[None, :, None]
        step.scratch[name] = table[:, None] * cache.heads + heads
    return step.scratch[name]


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
