"""Attention of decode rows straight over the paged cache, one query a row, split over its length.

Flash-decoding (https://pytorch.org/blog/flash-decoding): each split keeps its own running softmax,
a second small launch joins them. Pages [B, 32, H, D]. Refuses to know whose pages they are.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def store_kv(
    key, value, keys, values, places, key_h, key_t, value_h, value_t,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """`key`, `value` [H, T, D] (any strides, D dense) to flat token `places` [T] of the pages.

    A place of -1 is a row that only fills up a recorded batch.
    """
    token = tl.program_id(0)
    place = tl.load(places + token)
    if place < 0:
        return
    h = tl.arange(0, BLOCK_H)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    inside = (h < HEADS) & (d < WIDTH)
    to = place * HEADS * WIDTH + h * WIDTH + d
    k = tl.load(key + h * key_h + token * key_t + d, mask=inside, other=0.0)
    v = tl.load(value + h * value_h + token * value_t + d, mask=inside, other=0.0)
    tl.store(keys + to, k, mask=inside)
    tl.store(values + to, v, mask=inside)


@triton.jit
def attend_rows(
    query, keys, values, table, lengths, out, sums, peaks, scaling, q_h, q_t, table_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, PAGE: tl.constexpr,
    WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_G: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Row `i`'s queries [Hq, D] over its first `lengths[i]` tokens, pages `table[i]`.

    SPLITS 1: `out` [rows, Hq, D] is the answer. Else `out` [rows, Hq, SPLITS, D] fp32 are sums
    weighted against `peaks`, and `sums` their weights, both [rows, Hq, SPLITS] fp32.
    """
    row = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    end = tl.load(lengths + row).to(tl.int32)
    begin = 0
    if WINDOW > 0:
        begin = tl.maximum(end - WINDOW, 0)
    share = tl.cdiv(tl.cdiv(end - begin, SPLITS), BLOCK_N) * BLOCK_N
    begin += split * share
    end = tl.minimum(begin + share, end)
    g = tl.arange(0, BLOCK_G)
    d = tl.arange(0, BLOCK_D)
    queries = head * GROUP + g
    q = tl.load(
        query + (queries * q_h)[:, None] + row * q_t + d[None, :],
        mask=(g < GROUP)[:, None] & (d < WIDTH)[None, :], other=0.0,
    )  # fmt: skip
    peak = tl.full([BLOCK_G], float("-inf"), dtype=tl.float32)
    weights = tl.zeros([BLOCK_G], dtype=tl.float32)
    total = tl.zeros([BLOCK_G, BLOCK_D], dtype=tl.float32)
    for start in range(begin, end, BLOCK_N):
        at = start + tl.arange(0, BLOCK_N)
        known = at < end
        page = tl.load(table + row * table_stride + at // PAGE, mask=known, other=0)
        place = (page.to(tl.int64) * PAGE + at % PAGE) * (HEADS * WIDTH) + head * WIDTH
        inside = known[:, None] & (d < WIDTH)[None, :]
        k = tl.load(keys + place[:, None] + d[None, :], mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scaling
        if SOFTCAP > 0:
            # tanh by way of exp: 1 - 2 / (e^2x + 1) holds at both infinities.
            scores = SOFTCAP * (1 - 2 / (tl.exp(2 * scores / SOFTCAP) + 1))
        scores = tl.where(known[None, :], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, axis=1))
        kept = tl.exp(peak - higher)
        weight = tl.exp(scores - higher[:, None])
        v = tl.load(values + place[:, None] + d[None, :], mask=inside, other=0.0)
        total = total * kept[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        weights = weights * kept + tl.sum(weight, axis=1)
        peak = higher
    asked = (g < GROUP)[:, None] & (d < WIDTH)[None, :]
    cell = (row * HEADS * GROUP + queries) * SPLITS + split
    if SPLITS == 1:
        # A row of length 0 fills up a recorded batch; zeros, for NaN would spread from it.
        answer = total / tl.where(weights > 0, weights, 1.0)[:, None]
        tl.store(out + (cell * WIDTH)[:, None] + d[None, :], answer.to(q.dtype), mask=asked)
    else:
        tl.store(out + (cell * WIDTH)[:, None] + d[None, :], total, mask=asked)
        tl.store(sums + cell, weights, mask=g < GROUP)
        tl.store(peaks + cell, peak, mask=g < GROUP)


@triton.jit
def join_splits(
    parts, sums, peaks, out, WIDTH: tl.constexpr, SPLITS: tl.constexpr, BLOCK_D: tl.constexpr
):
    """One query head of one row: its splits' sums, each brought to the highest peak."""
    cell = tl.program_id(0)
    s = tl.arange(0, SPLITS)
    d = tl.arange(0, BLOCK_D)
    peak = tl.load(peaks + cell * SPLITS + s)
    # An empty split's peak is -inf; where all are, the difference of two of them must not be NaN.
    kept = tl.exp(peak - tl.maximum(tl.max(peak, axis=0), -1e38))
    weight = tl.sum(tl.load(sums + cell * SPLITS + s) * kept, axis=0)
    place = ((cell * SPLITS + s) * WIDTH)[:, None] + d[None, :]
    part = tl.load(parts + place, mask=(d < WIDTH)[None, :], other=0.0)
    total = tl.sum(part * kept[:, None], axis=0)
    answer = total / tl.where(weight > 0, weight, 1.0)
    tl.store(out + cell * WIDTH + d, answer.to(out.dtype.element_ty), mask=d < WIDTH)
