"""The arithmetic against textbook formulas, one sequence at a time."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from rootstock_server.backends import kv_cache
from rootstock_server.backends.kv_cache import BLOCK_TOKENS, KvCache
from rootstock_server.backends.reference import Reference
from rootstock_server.backends.step import Row, Step

HEADS, KV_HEADS, WIDTH = 4, 2, 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [(), (0,), (0, 1, 2)])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_linears_with_one_input_run_as_one(dtype, biased, rows):
    weights = [torch.randn(out, 24, dtype=dtype) for out in (16, 8, 40)]
    biases = [
        torch.randn(len(w), dtype=dtype) if i in biased else None for i, w in enumerate(weights)
    ]
    x = torch.randn(rows, 24, dtype=dtype)
    found = Reference().linear(Reference().linear_prepare(weights, biases), x)
    wanted = torch.cat([F.linear(x, w, b) for w, b in zip(weights, biases, strict=True)], dim=1)
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    assert torch.allclose(found.float(), wanted.float(), atol=tolerance, rtol=tolerance)


def textbook(query, key, value, position: int, window, softcap):
    """Attention of one query [Hq, D] at `position` over its own sequence's [H, L, D]."""
    group = HEADS // KV_HEADS
    first = max(0, position - window + 1) if window else 0
    out = []
    for head in range(HEADS):
        keys, values = (t[head // group, first : position + 1] for t in (key, value))
        scores = keys @ query[head] * 0.3
        if softcap:
            scores = torch.tanh(scores / softcap) * softcap
        out.append(torch.softmax(scores, 0) @ values)
    return torch.stack(out)


def sequences(chance: random.Random) -> list[tuple[int, int]]:
    """(tokens already in the cache, tokens of this step): decode rows, then three chunks."""
    decode = [(chance.randint(1, 90), 1) for _ in range(chance.randint(0, 4))]
    chunks = [(chance.choice([0, 0, 33, 5]), chance.randint(1, 50)) for _ in range(3)]
    return decode + chunks


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("seed", range(4))
def test_packed_rows_attend_to_their_own_sequence_only(seed, window, softcap):
    torch.manual_seed(seed)
    chance = random.Random(seed)
    cache = KvCache(1, 40, KV_HEADS, WIDTH, torch.float32)
    free = chance.sample(range(40), 40)  # blocks in no order, as they are after a while
    whole, rows, start = [], [], 0
    shares = sequences(chance)
    decoding = len(shares) - 3
    for past, new in shares:
        length = past + new
        key, value = torch.randn(2, KV_HEADS, length, WIDTH)
        blocks = tuple(free.pop() for _ in range(-(-length // BLOCK_TOKENS) + 1))
        if past:
            earlier = Step(None, None, (Row(0, past, past, blocks),), cache=cache)
            index = kv_cache.write_index(earlier, cache)
            cache.write(0, key[:, :past], value[:, :past], index)
        rows.append(Row(start, start + new, length, blocks))
        whole.append((key, value))
        start += new
    step = Step(None, None, tuple(rows), decoding, cache)
    query = torch.randn(HEADS, start, WIDTH)
    new = [
        torch.cat([pair[i][:, -row.tokens :] for pair, row in zip(whole, rows, strict=True)], 1)
        for i in (0, 1)
    ]
    found = Reference().attend(
        query, *new, layer=0, step=step, scaling=0.3, window=window, softcap=softcap
    )
    for row, (key, value) in zip(rows, whole, strict=True):
        for token in range(row.tokens):
            position = row.kv_length - row.tokens + token
            asked = query[:, row.start + token]
            wanted = textbook(asked, key, value, position, window, softcap)
            assert torch.allclose(found[row.start + token], wanted, atol=1e-5)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("lengths", [(5,), (6, 6, 6), (1, 9, 4)])
def test_packed_texts_attend_to_themselves_only(lengths, window):
    rows, start = [], 0
    for length in lengths:
        rows.append(Row(start, start + length, length))
        start += length
    q, k, v = torch.randn(3, HEADS, start, WIDTH)
    step = Step(None, None, tuple(rows))
    found = Reference().attend_bidirectional(q, k, v, step=step, scaling=0.3, window=window)
    for row in rows:
        own = slice(row.start, row.stop)
        scores = q[:, own] @ k[:, own].transpose(1, 2) * 0.3
        position = torch.arange(row.tokens)
        if window:
            far = (position[:, None] - position).abs() >= window
            scores = scores.masked_fill(far, float("-inf"))
        wanted = (scores.softmax(-1) @ v[:, own]).transpose(0, 1)
        assert torch.allclose(found[own], wanted, atol=1e-5)


def test_a_row_never_reads_another_rows_blocks_not_even_masked():
    """Not-a-number in the long row's blocks stays there, though the short row is padded."""
    cache = KvCache(1, 8, KV_HEADS, WIDTH, torch.float32)
    cache.keys[0][:4] = float("nan")
    cache.values[0][:4] = float("nan")
    rows = (Row(0, 1, 100, (0, 1, 2, 3)), Row(1, 2, 3, (5,)))
    step = Step(None, None, rows, 2, cache)
    q, k, v = torch.randn(HEADS, 2, WIDTH), *torch.randn(2, KV_HEADS, 2, WIDTH)
    out = Reference().attend(q, k, v, layer=0, step=step, scaling=1.0, window=None, softcap=None)
    assert out[0].isnan().any()
    assert out[1].isfinite().all()


def test_cleared_blocks_hold_nothing():
    cache = KvCache(2, 4, KV_HEADS, WIDTH, torch.float32)
    for layer in (*cache.keys, *cache.values):
        layer.fill_(float("nan"))
    cache.clear((1, 3))
    for layer in (*cache.keys, *cache.values):
        assert not layer[[1, 3]].any()
        assert layer[[0, 2]].isnan().all()


def test_the_cache_takes_the_bytes_that_it_says():
    cache = KvCache(3, 5, KV_HEADS, WIDTH, torch.bfloat16)
    tensors = (*cache.keys, *cache.values)
    per_block = KvCache.block_bytes(3, KV_HEADS, WIDTH, torch.bfloat16)
    assert sum(tensor.nbytes for tensor in tensors) == 5 * per_block
