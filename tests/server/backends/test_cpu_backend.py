"""Every C++ kernel, in every instruction set that this machine has, against plain torch in fp64."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from rootstock_server.backends.backend import SlotArrays
from rootstock_server.backends.cpu import cpu
from rootstock_server.backends.kv_cache import BLOCK_TOKENS, gather_index, write_index
from rootstock_server.backends.step import Attachment, Row, Segment, Step

if not cpu.available():
    pytest.skip("the kernels were not built: make setup", allow_module_level=True)

ISAS = torch.ops.rootstock_cpu.isas().split()
# fp32 sums in another order; bf16 keeps 8 bits. Ours rounds once, at the end; ATen's products for
# long runs round what `down` leaves and the update, too.
CLOSE = {
    torch.float32: {"atol": 1e-5, "rtol": 1e-5},
    torch.bfloat16: {"atol": 2e-2, "rtol": 1e-2},
}
DTYPES = list(CLOSE)


@pytest.fixture(params=ISAS, autouse=True)
def isa(request):
    torch.ops.rootstock_cpu.use_isa(request.param)
    assert torch.ops.rootstock_cpu.used_isa() == request.param
    yield request.param
    torch.ops.rootstock_cpu.use_isa(ISAS[0])


def test_an_instruction_set_that_is_not_here_is_refused():
    with pytest.raises(ValueError, match="no instruction set 'mmx' here; known: "):
        torch.ops.rootstock_cpu.use_isa("mmx")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [(), (1,)])
@pytest.mark.parametrize("tokens", [1, 5, 6, 12, 13, 40, 150])
@pytest.mark.parametrize(
    ("width", "outs"), [(64, (48,)), (31, (16,)), (96, (1,)), (50, (70, 33, 8)), (1200, (40,))]
)
def test_linears_with_one_input_run_as_one(dtype, biased, tokens, width, outs):
    torch.manual_seed(0)
    weights = [(torch.randn(out, width) / width**0.5).to(dtype) for out in outs]
    biases = [torch.randn(out).to(dtype) if m in biased else None for m, out in enumerate(outs)]
    x = torch.randn(tokens, width).to(dtype)
    backend = cpu.Cpu()
    found = backend.linear(backend.linear_prepare(weights, biases), x)
    parts = [
        F.linear(x.double(), w.double(), None if b is None else b.double())
        for w, b in zip(weights, biases, strict=True)
    ]
    torch.testing.assert_close(found.double(), torch.cat(parts, dim=1), **CLOSE[dtype])


def test_a_token_that_is_not_finite_leaves_the_products_of_its_neighbours_alone():
    backend = cpu.Cpu()
    weights = backend.linear_prepare([torch.randn(48, 64).bfloat16()], [None])
    x = torch.randn(20, 64).bfloat16()
    x[7, 3] = float("nan")
    y = backend.linear(weights, x)
    assert y[7].isnan().all()
    assert y[[i for i in range(20) if i != 7]].isfinite().all()


def updates(slots: int, rank: int, outs: list[int], width: int, ranks: list[int], dtype):
    """Slot arrays with garbage, NaN even, behind each slot's true rank."""
    down = torch.randn(slots, len(outs), rank, width) / width**0.5
    ups = [torch.randn(slots, rank, out) / rank**0.5 for out in outs]
    for slot, used in enumerate(ranks):
        down[slot, :, used:] = float("nan")
        for up in ups:
            up[slot, used:] = float("nan")
    down = down.flatten(1, 2).to(dtype)
    return SlotArrays(rank, {0: down}, {0: [up.to(dtype) for up in ups]}, ranks)


def updated(ys, x, attachment):
    """What `delta` must leave in `ys`, in fp64."""
    arrays, wanted = attachment.arrays, [y.double() for y in ys]
    for run in attachment.segments:
        used, tokens = arrays.ranks[run.slot], slice(run.start, run.stop)
        for m, y in enumerate(wanted):
            first = m * arrays.rank
            down = arrays.down[0][run.slot, first : first + used].double()
            update = x[tokens].double() @ down.T @ arrays.up[0][m][run.slot, :used].double()
            scale = 1.0 if attachment.scales is None else attachment.scales[tokens, None]
            y[tokens] += update * scale
    return wanted


def segments(lengths: list[int], slots: int, chance: random.Random) -> tuple[Segment, ...]:
    """Runs of these lengths under random slots; every third one belongs to the base."""
    runs, start = [], 0
    for number, length in enumerate(lengths):
        if number % 3 != 2:
            runs.append(Segment(start, start + length, chance.randrange(slots)))
        start += length
    return tuple(runs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    ("width", "outs", "rank", "lengths"),
    [
        (64, [64], 8, [1]),
        (96, [96, 32, 32], 16, [1] * 16),
        (50, [7, 130], 3, [1, 5, 2, 9]),
        (33, [1], 1, [4, 1, 3, 3]),
        (64, [300, 300], 64, [64, 65, 1, 70]),
        (768, [768, 256, 256], 16, [1] * 64),
        (128, [65], 16, [200]),
    ],
)
def test_updates_of_many_adapters(dtype, scaled, width, outs, rank, lengths):
    torch.manual_seed(0)
    chance = random.Random(0)
    ranks = [chance.randint(1, rank) for _ in range(4)] + [rank, 0]
    arrays = updates(len(ranks), rank, outs, width, ranks, dtype)
    tokens = sum(lengths)
    x = torch.randn(tokens, width).to(dtype)
    y = torch.randn(tokens, sum(outs)).to(dtype)  # members side by side, as one product leaves them
    scales = torch.rand(tokens) * 2 if scaled else None
    attachment = Attachment(arrays, segments(lengths, len(ranks), chance), None, scales)
    ys = list(y.split(outs, dim=1))
    wanted = updated(ys, x, attachment)
    cpu.Cpu().delta(ys, x, 0, attachment)
    for found, want in zip(ys, wanted, strict=True):
        torch.testing.assert_close(found.double(), want, **CLOSE[dtype])


def test_an_update_that_is_not_finite_stays_with_its_tokens():
    arrays = updates(2, 8, [40], 32, [8, 8], torch.float32)
    arrays.down[0][0] = float("nan")
    attachment = Attachment(arrays, (Segment(0, 2, 0), Segment(2, 4, 1)), None)
    y = torch.zeros(4, 40)
    cpu.Cpu().delta([y], torch.randn(4, 32), 0, attachment)
    assert y[:2].isnan().all()
    assert y[2:].isfinite().all()


def test_a_group_that_no_adapter_touches_is_left_alone():
    attachment = Attachment(SlotArrays(8, {}, {}, []), (Segment(0, 1, 0),), None)
    y = torch.ones(1, 4)
    cpu.Cpu().delta([y], torch.ones(1, 4), 3, attachment)
    assert y.eq(1).all()


def textbook(query, key, value, position, window, softcap):
    """Attention of one query [Hq, D] at `position` over its own sequence's [H, L, D], in fp64."""
    first = max(0, position - window + 1) if window else 0
    groups = len(query) // len(key)
    keys, values = (
        t[:, first : position + 1].double().repeat_interleave(groups, 0) for t in (key, value)
    )
    scores = torch.einsum("hd,hld->hl", query.double(), keys) * query.shape[1] ** -0.5
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    return torch.einsum("hl,hld->hd", scores.softmax(-1), values)


def packed(shares, heads, width, dtype, chance):
    """A cache with the past of `shares` (past, new) in blocks in no order, and the step after."""
    needed = sum(-(-(past + new) // BLOCK_TOKENS) for past, new in shares)
    backend = cpu.Cpu()
    cache = backend.new_cache(1, needed + 3, heads, width, dtype)
    for layer in (*cache.keys, *cache.values):
        layer.fill_(float("nan"))  # what an earlier tenant may have left
    free = chance.sample(range(needed + 3), needed + 3)
    whole, rows, start = [], [], 0
    for past, new in shares:
        key, value = torch.randn(2, heads, past + new, width).to(dtype)
        blocks = tuple(free.pop() for _ in range(-(-(past + new) // BLOCK_TOKENS)))
        if past:
            earlier = Step(None, None, (Row(0, past, past, blocks),), cache=cache)
            cache.write(0, key[:, :past], value[:, :past], write_index(earlier, cache))
        rows.append(Row(start, start + new, past + new, blocks))
        whole.append((key, value))
        start += new
    decoding = sum(new == 1 for _, new in shares)
    return Step(None, None, tuple(rows), decoding, cache), whole


def new_part(whole, step, which):
    parts = [pair[which][:, -row.tokens :] for pair, row in zip(whole, step.rows, strict=True)]
    return torch.cat(parts, 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (7, None), (None, 5.0), (40, 2.0)])
@pytest.mark.parametrize(
    ("heads", "groups", "width"),
    [(2, 1, 32), (4, 3, 64), (1, 8, 80), (2, 4, 96), (1, 2, 128), (1, 12, 16), (3, 5, 20)],
)
def test_attention_over_blocks(dtype, window, softcap, heads, groups, width):
    torch.manual_seed(0)
    chance = random.Random(width)
    shares = [(31, 1), (32, 1), (0, 1), (290, 1), (33, 9), (0, 70), (255, 2)]
    step, whole = packed(shares, heads, width, dtype, chance)
    tokens = step.rows[-1].stop
    # [Hq, T, D] as a model passes it: a view of [T, Hq, D]
    query = torch.randn(tokens, heads * groups, width).to(dtype).transpose(0, 1)
    found = cpu.Cpu().attend(
        query, new_part(whole, step, 0), new_part(whole, step, 1),
        layer=0, step=step, scaling=width**-0.5, window=window, softcap=softcap,
    )  # fmt: skip
    assert found.dtype == dtype
    for row, (key, value) in zip(step.rows, whole, strict=True):
        for token in range(row.tokens):
            position = row.kv_length - row.tokens + token
            wanted = textbook(query[:, row.start + token], key, value, position, window, softcap)
            torch.testing.assert_close(found[row.start + token].double(), wanted, **CLOSE[dtype])


def test_scores_that_overflow_and_values_that_are_not_finite_stay_in_their_row():
    step, whole = packed([(40, 1), (40, 1), (40, 1)], 2, 32, torch.float32, random.Random(0))
    query = torch.randn(4, 3, 32)
    key, value = new_part(whole, step, 0), new_part(whole, step, 1)
    query[:, 0], value[:, 2] = float("nan"), float("inf")
    arguments = {"layer": 0, "step": step, "scaling": 1.0, "window": None, "softcap": None}
    out = cpu.Cpu().attend(query, key, value, **arguments)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()
    assert not out[2].isfinite().any()


def test_large_scores_do_not_overflow():
    step, whole = packed([(300, 1)], 1, 32, torch.float32, random.Random(0))
    key, value = new_part(whole, step, 0), new_part(whole, step, 1)
    query = torch.randn(2, 1, 32) * 1e4
    arguments = {"layer": 0, "step": step, "scaling": 32**-0.5, "window": None, "softcap": None}
    found = cpu.Cpu().attend(query, key, value, **arguments)
    wanted = textbook(query[:, 0], *whole[0], 300, None, None)
    torch.testing.assert_close(found[0].double(), wanted, **CLOSE[torch.float32])


def test_what_was_written_is_gathered_again():
    step, whole = packed([(70, 1), (20, 1)], 3, 24, torch.bfloat16, random.Random(0))
    keys, values = step.cache.gather(0, gather_index(step, step.cache, 0, 2))
    for number, (past, (key, value)) in enumerate(zip((70, 20), whole, strict=True)):
        assert keys[number, :, :past].equal(key[:, :past])
        assert values[number, :, :past].equal(value[:, :past])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 20, 64, 768, 1000])
@pytest.mark.parametrize("one_plus", [False, True])
def test_rms_norm_rounds_as_transformers_does(dtype, width, one_plus):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 9, width).to(dtype), torch.randn(width).to(dtype)
    normed = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)
    wanted = (normed * (1 + weight.float())).to(dtype) if one_plus else weight * normed.to(dtype)
    found = torch.ops.rootstock_cpu.rms_norm(x, weight, 1e-6, one_plus)
    torch.testing.assert_close(found, wanted, **CLOSE[dtype])
    # The mean may differ in its last bit, and then a few values fall to the other side.
    assert found.ne(wanted).float().mean() < (0.01 if dtype == torch.bfloat16 else 1)


def rotate_half(x):
    return torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [2, 16, 64, 80])
def test_rotary_embedding_is_what_transformers_computes(dtype, width):
    x = torch.randn(1, 5, 3, width).to(dtype).transpose(1, 2)
    cos, sin = torch.randn(2, 1, 5, width).to(dtype)
    found = torch.ops.rootstock_cpu.rotate(x, cos, sin)
    wanted = x * cos[:, None] + rotate_half(x) * sin[:, None]
    torch.testing.assert_close(found, wanted, **CLOSE[dtype])
    if dtype == torch.bfloat16:
        assert found.equal(wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 40, 2048])
@pytest.mark.parametrize(
    ("kind", "act"), [("silu", F.silu), ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"))]
)
def test_gates(dtype, width, kind, act):
    both = (torch.randn(1, 6, 2 * width) * 6).to(dtype)
    gate, up = both.split(width, dim=-1)
    found = torch.ops.rootstock_cpu.gated(gate, up, kind)
    torch.testing.assert_close(found, act(gate) * up, **CLOSE[dtype])


def test_gates_of_extreme_values():
    gate = torch.tensor([[-1e30, -200.0, -90.0, 90.0, 1e30, float("nan")] * 6])
    found = torch.ops.rootstock_cpu.gated(gate, torch.ones_like(gate), "silu")
    torch.testing.assert_close(found, F.silu(gate), atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_that_is_not_finite_leaves_its_neighbours_alone(dtype):
    x = torch.randn(3, 64).to(dtype)
    x[1, 5] = float("nan")
    normed = torch.ops.rootstock_cpu.rms_norm(x, torch.ones(64, dtype=dtype), 1e-6, False)
    gated = torch.ops.rootstock_cpu.gated(x, x, "silu")
    for out in (normed, gated):
        assert out[[0, 2]].isfinite().all()
        assert out[1].isnan().any()
