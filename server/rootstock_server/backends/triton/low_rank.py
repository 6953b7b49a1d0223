"""Updates of many adapters in one launch: `y += up · (down · x)`, every token under its own slot.

Per-token kernels for decode (Punica's BGMV, arXiv 2310.18547), segmented ones for prefill (SGMV).
Members of a group, which share one input, run in one launch. Refuses to know what a slot holds.
"""

from __future__ import annotations

import triton
import triton.language as tl

# Letters as everywhere: T tokens, R rank (of the bucket), M members of a group, S slots.


@triton.jit
def shrink_tokens(
    x, down, slots, ranks, scales, hidden, width, x_stride,
    MEMBERS: tl.constexpr, RANK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`x` [T, in] by `down` [S, M·R, in] → `hidden` [T, M, R] fp32, one program a few rows.

    `slots` [T] int64 (-1: the base alone), `ranks` [T] int64 true ranks, `scales` [T] fp32.
    Rows of `hidden` from a token's true rank on are left as they are, and never read.
    """
    token = tl.program_id(0)
    slot = tl.load(slots + token)
    if slot < 0:
        return
    rank = tl.load(ranks + token)
    blocks: tl.constexpr = (RANK + BLOCK_R - 1) // BLOCK_R
    member = tl.program_id(1) // blocks
    first = (tl.program_id(1) % blocks) * BLOCK_R
    if first >= rank:
        return
    r = first + tl.arange(0, BLOCK_R)
    k = tl.arange(0, BLOCK_K)
    rows = (slot * MEMBERS * RANK + member * RANK + r) * width  # slot is int64, so all of it is
    total = tl.zeros([BLOCK_R, BLOCK_K], dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        inside = start + k < width
        xs = tl.load(x + token * x_stride + start + k, mask=inside, other=0.0)
        place = rows[:, None] + (start + k)[None, :]
        a = tl.load(down + place, mask=(r < rank)[:, None] & inside[None, :], other=0.0)
        total += a.to(tl.float32) * xs.to(tl.float32)[None, :]
    update = tl.sum(total, axis=1) * tl.load(scales + token)
    tl.store(hidden + (token * MEMBERS + member) * RANK + r, update, mask=r < rank)


@triton.jit
def expand_tokens(
    hidden, up0, up1, up2, y, slots, ranks, y_stride, out0, out1, out2,
    MEMBERS: tl.constexpr, RANK: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """`y` [T, sum(outs)] += `hidden` [T, M, R] by each member's `up` [S, R, out_m], in place."""
    token = tl.program_id(0)
    slot = tl.load(slots + token)
    if slot < 0:
        return
    rank = tl.load(ranks + token)
    member, offset, out, n = _column(tl.program_id(1), out0, out1, out2, BLOCK_N)
    total = tl.zeros([BLOCK_N], dtype=tl.float32)
    for start in range(0, rank, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        h = tl.load(hidden + (token * MEMBERS + member) * RANK + r, mask=r < rank, other=0.0)
        place = ((slot * RANK + r) * out)[:, None] + n[None, :]
        inside = (r < rank)[:, None] & (n < out)[None, :]
        b = _load_up(member, up0, up1, up2, place, inside, MEMBERS)
        total += tl.sum(b.to(tl.float32) * h[:, None], axis=0)
    target = y + token.to(tl.int64) * y_stride + offset + n
    before = tl.load(target, mask=n < out, other=0.0)
    tl.store(target, (before.to(tl.float32) + total).to(before.dtype), mask=n < out)


@triton.jit
def shrink_segments(
    x, down, starts, stops, slots, ranks, scales, hidden, width, x_stride,
    MEMBERS: tl.constexpr, RANK: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """As `shrink_tokens`, one program a tile: tokens `starts[i]:stops[i]` under `slots[i]`."""
    tile = tl.program_id(0)
    slot = tl.load(slots + tile)
    rank = tl.load(ranks + tile)
    blocks: tl.constexpr = (RANK + BLOCK_R - 1) // BLOCK_R
    member = tl.program_id(1) // blocks
    first = (tl.program_id(1) % blocks) * BLOCK_R
    if first >= rank:
        return
    t = tl.load(starts + tile) + tl.arange(0, BLOCK_T)
    r = first + tl.arange(0, BLOCK_R)
    k = tl.arange(0, BLOCK_K)
    known = t < tl.load(stops + tile)
    rows = (slot * MEMBERS * RANK + member * RANK + r) * width
    total = tl.zeros([BLOCK_T, BLOCK_R], dtype=tl.float32)
    for start in range(0, width, BLOCK_K):
        inside = start + k < width
        xs = tl.load(
            x + (t * x_stride)[:, None] + (start + k)[None, :],
            mask=known[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
        a = tl.load(
            down + rows[None, :] + (start + k)[:, None],
            mask=(r < rank)[None, :] & inside[:, None], other=0.0,
        )  # fmt: skip
        total += tl.dot(xs, a, input_precision="ieee")
    total *= tl.load(scales + t, mask=known, other=0.0)[:, None]
    place = (t * (MEMBERS * RANK))[:, None] + (member * RANK + r)[None, :]
    tl.store(hidden + place, total, mask=known[:, None] & (r < rank)[None, :])


@triton.jit
def expand_segments(
    hidden, up0, up1, up2, y, starts, stops, slots, ranks, y_stride, out0, out1, out2,
    MEMBERS: tl.constexpr, RANK: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """As `expand_tokens`, one program a tile of tokens and a block of columns."""
    tile = tl.program_id(0)
    slot = tl.load(slots + tile)
    rank = tl.load(ranks + tile)
    t = tl.load(starts + tile) + tl.arange(0, BLOCK_T)
    known = t < tl.load(stops + tile)
    member, offset, out, n = _column(tl.program_id(1), out0, out1, out2, BLOCK_N)
    total = tl.zeros([BLOCK_T, BLOCK_N], dtype=tl.float32)
    for start in range(0, rank, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        place = (t * (MEMBERS * RANK))[:, None] + (member * RANK + r)[None, :]
        h = tl.load(hidden + place, mask=known[:, None] & (r < rank)[None, :], other=0.0)
        place = ((slot * RANK + r) * out)[:, None] + n[None, :]
        inside = (r < rank)[:, None] & (n < out)[None, :]
        b = _load_up(member, up0, up1, up2, place, inside, MEMBERS)
        total += tl.dot(h.to(b.dtype), b, input_precision="ieee")
    target = y + (t * y_stride)[:, None] + (offset + n)[None, :]
    inside = known[:, None] & (n < out)[None, :]
    before = tl.load(target, mask=inside, other=0.0)
    tl.store(target, (before.to(tl.float32) + total).to(before.dtype), mask=inside)


@triton.jit
def _column(block, out0, out1, out2, BLOCK_N: tl.constexpr):
    """Which member a block of columns belongs to: its number, offset in y, width and columns."""
    blocks0 = tl.cdiv(out0, BLOCK_N)
    blocks1 = tl.cdiv(out1, BLOCK_N)
    second = (block >= blocks0).to(tl.int32)
    third = (block >= blocks0 + blocks1).to(tl.int32)
    member = second + third
    offset = second * out0 + third * out1
    out = (1 - second) * out0 + (second - third) * out1 + third * out2
    local = block - second * blocks0 - third * blocks1
    return member, offset, out, local * BLOCK_N + tl.arange(0, BLOCK_N)


@triton.jit
def _load_up(member, up0, up1, up2, place, inside, MEMBERS: tl.constexpr):
    """Values at `place` of this member's array; every member has an allocation of its own."""
    b = tl.load(up0 + place, mask=inside & (member == 0), other=0.0)
    if MEMBERS > 1:
        b += tl.load(up1 + place, mask=inside & (member == 1), other=0.0)
    if MEMBERS > 2:
        b += tl.load(up2 + place, mask=inside & (member == 2), other=0.0)
    return b
