"""The backend of a GPU: Triton kernels behind the same interface as the truth in plain torch.

Refuses to know requests and versions; what a step holds, `layout.py` puts on the device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
import triton
from torch import Tensor, nn

from rootstock_server.backends.backend import LinearWeights
from rootstock_server.backends.kv_cache import BLOCK_TOKENS, KvCache
from rootstock_server.backends.reference import Reference
from rootstock_server.backends.step import Attachment, Step, current
from rootstock_server.backends.triton import layout, low_rank, paged
from rootstock_server.backends.triton.adopt import adopt
from rootstock_server.backends.triton.packed import PackedAttention
from rootstock_server.backends.triton.recordings import Recordings

log = logging.getLogger(__name__)

PROGRAMS = 264  # two for each multiprocessor of a large GPU: below that, rows are split
MOST_SPLITS = 32


class PagedCache(KvCache):
    """Pages of 32 tokens, token-major: [B, 32, H, D], as attention kernels for GPUs read them."""

    def __init__(
        self, layers: int, blocks: int, heads: int, head_dim: int,
        dtype: torch.dtype, device: torch.device,
    ):  # fmt: skip
        shape = (blocks, BLOCK_TOKENS, heads, head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(layers)]
        self.blocks, self.heads, self.head_dim = blocks, heads, head_dim

    def write(self, layer: int, key: Tensor, value: Tensor, index: Tensor) -> None:
        """`key`, `value` [H, T, D] go to the flat token positions `index` [T] of the pages."""
        store_kv(key, value, self.keys[layer], self.values[layer], index)


class Triton(Reference):
    """The `Backend` for CUDA; its kernels also run, slowly, in Triton's interpreter on a CPU."""

    name = "triton"

    def __init__(self, device: str = "cuda") -> None:
        super().__init__(device)
        self._packed = PackedAttention()
        self._programs = PROGRAMS if self.device.type == "cuda" else 8
        self.recordings = Recordings(self.device) if self.device.type == "cuda" else None

    def adopt(self, backbone: nn.Module) -> None:
        adopt(backbone)

    def run(self, step: Step, forward: Callable[[Step], Tensor]) -> Tensor:
        """A decode step is replayed as one CUDA graph: launching it costs more than running it."""
        if self.recordings is None:
            return forward(step)
        return self.recordings.run(step, forward)

    def linear_prepare(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
    ) -> LinearWeights:
        weight = torch.cat([w.detach() for w in weights]).contiguous()
        bias = None
        if any(b is not None for b in biases):
            parts = [
                w.new_zeros(len(w)) if b is None else b.detach()
                for w, b in zip(weights, biases, strict=True)
            ]
            bias = torch.cat(parts)
        return LinearWeights(weight, bias, packed=False)

    def linear(self, weights: LinearWeights, x: Tensor) -> Tensor:
        return F.linear(x, weights.weight, weights.bias)

    def slot_zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        # The base's own dtype: updates are bound by the bytes that are read of them.
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def delta(self, ys: Sequence[Tensor], x: Tensor, group: int, attachment: Attachment) -> None:
        arrays = attachment.arrays
        down = arrays.down.get(group)
        if down is None or not attachment.segments:
            return
        step, tokens = current(), len(x)
        key = ("low_rank", id(attachment))
        if layout.decodes_only(step):
            if key not in step.scratch:
                step.scratch[key] = layout.token_slots(attachment, tokens, self.device)
            update_tokens(ys, x, down, arrays.up[group], step.scratch[key])
        else:
            if key not in step.scratch:
                step.scratch[key] = layout.tiles(attachment, tokens, self.device)
            update_segments(ys, x, down, arrays.up[group], step.scratch[key])

    def new_cache(
        self, layers: int, blocks: int, heads: int, head_dim: int, dtype: torch.dtype
    ) -> KvCache:
        return PagedCache(layers, blocks, heads, head_dim, dtype, self.device)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *,
        layer: int, step: Step, scaling: float, window: int | None, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        cache = step.cache
        if cache is None:
            raise RuntimeError("causal attention needs a cache in the step")
        if "pages" not in step.scratch:
            step.scratch["pages"] = layout.pages(step, self.device)
        pages: layout.Pages = step.scratch["pages"]
        cache.write(layer, key, value, pages.places)
        decode, parts = step.decode_rows, []
        if decode:
            parts.append(attend_rows(
                query[:, :decode], cache.keys[layer], cache.values[layer], pages,
                scaling=scaling, window=window, softcap=softcap, programs=self._programs,
            ))  # fmt: skip
        rows = step.rows[decode:]
        if rows:
            if "chunks" not in step.scratch:
                step.scratch["chunks"] = layout.chunks(step, self.device)
            chunks: layout.Chunks = step.scratch["chunks"]
            k, v = _end_to_end(key, value, cache, layer, decode, chunks.places)
            parts.append(self._packed(
                query[:, decode:].transpose(0, 1), k, v, rows, chunks,
                scaling=scaling, window=window, softcap=softcap,
            ))  # fmt: skip
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def _end_to_end(
    key: Tensor, value: Tensor, cache: KvCache, layer: int, decode: int, places: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Keys and values [L, H, D] of the chunks' whole sequences, out of the step or the cache."""
    if places is None:
        return key[:, decode:].transpose(0, 1), value[:, decode:].transpose(0, 1)
    stores = (cache.keys[layer], cache.values[layer])
    k, v = (store.flatten(0, 1).index_select(0, places) for store in stores)
    return k, v


def update_tokens(
    ys: Sequence[Tensor], x: Tensor, down: Tensor, ups: Sequence[Tensor], at: layout.TokenSlots
) -> None:
    """`ys` M views [T, out_m] of one output += each token's update of `x` [T, in], in place."""
    y, outs, rank = _group(ys, ups)
    hidden = torch.empty(len(x), len(ups), rank, dtype=torch.float32, device=x.device)
    common = {"MEMBERS": len(ups), "RANK": rank}
    block_r, block_n = min(4, rank), 128
    grid = (len(x), len(ups) * triton.cdiv(rank, block_r))
    low_rank.shrink_tokens[grid](
        x, down, at.slots, at.ranks, at.scales, hidden, x.shape[1], x.stride(0),
        **common, BLOCK_R=block_r, BLOCK_K=min(1024, triton.next_power_of_2(x.shape[1])),
    )  # fmt: skip
    grid = (len(x), sum(triton.cdiv(out, block_n) for out in outs))
    low_rank.expand_tokens[grid](
        hidden, *_three(ups), y, at.slots, at.ranks, y.stride(0), *outs,
        **common, BLOCK_R=min(16, rank), BLOCK_N=block_n,
    )  # fmt: skip


def update_segments(
    ys: Sequence[Tensor], x: Tensor, down: Tensor, ups: Sequence[Tensor], at: layout.Tiles
) -> None:
    """As `update_tokens`, for tokens that come in segments under one slot."""
    y, outs, rank = _group(ys, ups)
    hidden = torch.empty(len(x), len(ups), rank, dtype=torch.float32, device=x.device)
    common = {"MEMBERS": len(ups), "RANK": rank, "BLOCK_T": layout.TILE_TOKENS, "BLOCK_R": 16}
    tiles, block_n = len(at.starts), 128
    grid = (tiles, len(ups) * triton.cdiv(rank, 16))
    low_rank.shrink_segments[grid](
        x, down, at.starts, at.stops, at.slots, at.ranks, at.scales, hidden,
        x.shape[1], x.stride(0), **common, BLOCK_K=128,
    )  # fmt: skip
    grid = (tiles, sum(triton.cdiv(out, block_n) for out in outs))
    low_rank.expand_segments[grid](
        hidden, *_three(ups), y, at.starts, at.stops, at.slots, at.ranks, y.stride(0), *outs,
        **common, BLOCK_N=block_n,
    )  # fmt: skip


def _group(ys: Sequence[Tensor], ups: Sequence[Tensor]) -> tuple[Tensor, list[int], int]:
    """The whole output that `ys` are views of, its three widths, and the bucket's rank."""
    outs = [up.shape[2] for up in ups]
    place = ys[0].data_ptr()
    for y, out in zip(ys, outs, strict=True):
        if y.data_ptr() != place or y.stride(1) != 1:
            raise RuntimeError("the outputs of a group must be views of one tensor, in order")
        place += out * y.element_size()
    return ys[0], outs + [0] * (3 - len(outs)), ups[0].shape[1]


def _three(ups: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """A kernel has a fixed number of arguments; it never reads the ones that fill up."""
    return (*ups, *[ups[0]] * (3 - len(ups)))


def store_kv(key: Tensor, value: Tensor, keys: Tensor, values: Tensor, places: Tensor) -> None:
    """`key`, `value` [H, T, D] to flat token positions `places` [T] of pages [B, 32, H, D]."""
    heads, tokens, width = key.shape
    key, value = (t if t.stride(2) == 1 else t.contiguous() for t in (key, value))
    paged.store_kv[(tokens,)](
        key, value, keys, values, places,
        key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        HEADS=heads, WIDTH=width,
        BLOCK_H=triton.next_power_of_2(heads), BLOCK_D=triton.next_power_of_2(width),
    )  # fmt: skip


def attend_rows(
    query: Tensor, keys: Tensor, values: Tensor, pages: layout.Pages,
    *, scaling: float, window: int | None, softcap: float | None, programs: int = PROGRAMS,
) -> Tensor:  # fmt: skip
    """One query a row, `query` [Hq, rows, D], over pages [B, 32, H, D] → [rows, Hq, D].

    Each row is split over its length until there are about `programs` programs.
    """
    query_heads, rows, width = query.shape
    heads = keys.shape[2]
    query = query if query.stride(2) == 1 else query.contiguous()
    splits = min(MOST_SPLITS, triton.next_power_of_2(max(1, programs // (rows * heads))))
    out = torch.empty(rows, query_heads, width, dtype=query.dtype, device=query.device)
    parts, shape = out, (rows, query_heads, splits)
    if splits > 1:
        parts = torch.empty(*shape, width, dtype=torch.float32, device=query.device)
    sums, peaks = torch.empty(2, *shape, dtype=torch.float32, device=query.device)
    block_d = max(16, triton.next_power_of_2(width))
    paged.attend_rows[(rows, heads, splits)](
        query, keys, values, pages.table, pages.lengths, parts, sums, peaks, scaling,
        query.stride(0), query.stride(1), pages.table.stride(0),
        HEADS=heads, GROUP=query_heads // heads, WIDTH=width, PAGE=BLOCK_TOKENS,
        WINDOW=window or 0, SOFTCAP=softcap or 0.0, SPLITS=splits,
        BLOCK_G=max(16, triton.next_power_of_2(query_heads // heads)),
        BLOCK_N=64 if width <= 128 else 32, BLOCK_D=block_d,
    )  # fmt: skip
    if splits > 1:
        paged.join_splits[(rows * query_heads,)](
            parts, sums, peaks, out, WIDTH=width, SPLITS=splits, BLOCK_D=block_d
        )
    return out
