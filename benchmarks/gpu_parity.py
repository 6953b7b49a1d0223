"""The GPU backend's arithmetic against plain torch on the CPU: `CHECKS`, each a function.

They run on a GPU, and kernel by kernel in Triton's interpreter. Refuses to know how fast it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from types import SimpleNamespace

import torch
from rootstock_server.backends.backend import SlotArrays
from rootstock_server.backends.kv_cache import BLOCK_TOKENS
from rootstock_server.backends.reference import Reference
from rootstock_server.backends.step import Attachment, Row, Segment, Step, running
from rootstock_server.backends.triton import adopt, layout
from rootstock_server.backends.triton.backend import Triton
from rootstock_server.backends.triton.packed import row_by_row
from torch import Tensor

# Of the reference's norm. fp32 sums in another order; bf16 has 8 bits, and rounds between steps.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}
WIDTHS = ((48,), (40, 24), (72, 24, 24))  # outputs of a group's members
IN_FEATURES, SLOTS = 72, 5


class Differs(AssertionError):
    """The backend's answer is not the reference's."""


def compare(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> float:
    """Relative error ‖found - wanted‖ / ‖wanted‖. Raises Differs above what `dtype` allows."""
    found, wanted = found.detach().cpu().double(), wanted.detach().cpu().double()
    error = float((found - wanted).norm() / wanted.norm())
    if not error <= TOLERANCE[dtype]:  # NaN fails too
        raise Differs(f"relative error {error:.2e}, allowed {TOLERANCE[dtype]:.0e}")
    return error


def arrays_of(outs: tuple[int, ...], bucket: int, ranks: list[int], dtype: torch.dtype):
    """Slot arrays with NaN wherever a true rank says that nothing is there."""
    down = torch.randn(SLOTS, len(outs), bucket, IN_FEATURES).to(dtype) / IN_FEATURES**0.5
    ups = [torch.randn(SLOTS, bucket, out).to(dtype) for out in outs]
    for slot, rank in enumerate(ranks):
        down[slot, :, rank:] = float("nan")
        for up in ups:
            up[slot, rank:] = float("nan")
    return SlotArrays(bucket, {0: down.flatten(1, 2)}, {0: ups}, ranks)


def updated(arrays: SlotArrays, x: Tensor, y: Tensor, segments, scales) -> Tensor:
    """The textbook: every token alone, in fp32."""
    y, outs = y.float().clone(), [up.shape[2] for up in arrays.up[0]]
    for segment in segments:
        rank = arrays.ranks[segment.slot]
        down = arrays.down[0][segment.slot].unflatten(0, (len(outs), arrays.rank)).float()
        for token in range(segment.start, segment.stop):
            columns = 0
            for member, up in enumerate(arrays.up[0]):
                hidden = down[member, :rank] @ x[token].float() * scales[token]
                update = hidden @ up[segment.slot, :rank].float()
                y[token, columns : columns + outs[member]] += update
                columns += outs[member]
    return y


def check_updates(device: str, dtype: torch.dtype, *, prefill: bool) -> float:
    """Groups of one to three, ranks from 1 to the bucket's, some tokens under the base alone."""
    worst, backend = 0.0, Triton(device)
    for outs, bucket in zip(WIDTHS, (64, 8, 16), strict=True):
        ranks = [1, bucket, bucket // 2 + 1, bucket - 1, 3]
        arrays = arrays_of(outs, bucket, ranks, dtype)
        lengths = [1, 37, 2, 16, 1, 5] if prefill else [1] * 7
        rows, segments, start = [], [], 0
        for number, length in enumerate(lengths):
            rows.append(Row(start, start + length, start + length))
            if number != 2:  # this one runs on the base alone
                segments.append(Segment(start, start + length, (3 * number) % SLOTS))
            start += length
        scales = torch.rand(start) + 0.5
        x, y = (
            torch.randn(start, IN_FEATURES).to(dtype),
            torch.randn(start, sum(outs)).to(dtype),
        )
        wanted = updated(arrays, x, y, segments, scales)
        moved = SlotArrays(
            bucket, {0: arrays.down[0].to(device)},
            {0: [up.to(device) for up in arrays.up[0]]}, ranks,
        )  # fmt: skip
        attachment = Attachment(moved, tuple(segments), None, scales)
        step = Step(None, None, tuple(rows), 0 if prefill else len(rows))
        found = y.to(device)
        with running(step):
            ys = list(found.split(outs, dim=-1))
            backend.delta(ys, x.to(device), 0, attachment)
        worst = max(worst, compare(found, wanted, dtype))
    return worst


def tokens_under_their_own_slots(device: str, dtype: torch.dtype) -> float:
    return check_updates(device, dtype, prefill=False)


def segments_under_their_own_slots(device: str, dtype: torch.dtype) -> float:
    return check_updates(device, dtype, prefill=True)


def mixed_rows(decode: int, chance: random.Random) -> list[tuple[int, int]]:
    """(tokens in the cache, tokens of this step): decode rows, fresh chunks, later chunks."""
    past = [(chance.randint(1, 150), 1) for _ in range(decode)]
    return past + [(0, 19), (33, 7), (0, 1), (64, 40)] * (decode % 2 == 1)


def attention_over_pages(device: str, dtype: torch.dtype) -> float:
    """Decode rows alone and beside chunks, against the reference in fp32 on the CPU."""
    worst = 0.0
    cases = ((1, None, None), (12, None, None), (3, None, None), (3, 7, None), (3, None, 2.0))
    for decode, window, softcap in cases:
        worst = max(worst, _attention_case(device, dtype, decode, window, softcap))
    return worst


def _attention_case(device, dtype, decode: int, window, softcap) -> float:
    heads, query_heads, width = 2, 6, 24
    chance = random.Random(decode)
    truth, tested = Reference(), Triton(device)
    free = chance.sample(range(200), 200)
    caches = [b.new_cache(1, 200, heads, width, dtype) for b in (truth, tested)]
    rows, start = [], 0
    for past, new in mixed_rows(decode, chance):
        blocks = tuple(free.pop() for _ in range(-(-(past + new) // BLOCK_TOKENS)))
        rows.append(Row(start, start + new, past + new, blocks))
        start += new
    _write_earlier(rows, caches, (truth, tested), heads, width, dtype)
    query = torch.randn(query_heads, start, width).to(dtype)
    key, value = torch.randn(2, heads, start, width).to(dtype)
    options = {"layer": 0, "scaling": 0.3, "window": window, "softcap": softcap}
    answers = []
    for backend, cache in zip((truth, tested), caches, strict=True):
        step = Step(None, None, tuple(rows), decode, cache)
        where = backend.device
        answers.append(
            backend.attend(query.to(where), key.to(where), value.to(where), step=step, **options)
        )
    return compare(answers[1], answers[0], dtype)


def _write_earlier(rows, caches, backends, heads: int, width: int, dtype) -> None:
    """Keys and values of the tokens before this step, the same in both caches."""
    query = torch.zeros(heads, 1, width, dtype=dtype)
    for row in rows:
        past = row.kv_length - row.tokens
        if past:
            key, value = torch.randn(2, heads, past, width).to(dtype)
            for backend, cache in zip(backends, caches, strict=True):
                step = Step(None, None, (Row(0, past, past, row.blocks),), 0, cache)
                asked = query.expand(heads, past, width).to(backend.device)
                where = backend.device
                backend.attend(
                    asked, key.to(where), value.to(where), layer=0, step=step,
                    scaling=1.0, window=None, softcap=None,
                )  # fmt: skip


def long_rows_split_over_programs(device: str, dtype: torch.dtype) -> float:
    """One row of 700 tokens is split 32 ways, some splits empty; and a row that fills up."""
    heads, query_heads, width, length = 1, 4, 16, 700
    blocks = -(-length // BLOCK_TOKENS)
    keys, values = torch.randn(2, blocks, BLOCK_TOKENS, heads, width).to(dtype)
    query = torch.randn(query_heads, 2, width).to(dtype)
    pages = layout.Pages(
        torch.zeros(0), torch.arange(blocks, dtype=torch.int32, device=device).repeat(2, 1),
        torch.tensor([length, 0], device=device),
    )  # fmt: skip
    from rootstock_server.backends.triton.backend import attend_rows

    found = attend_rows(
        query.to(device), keys.to(device), values.to(device), pages,
        scaling=0.3, window=None, softcap=None,
    )  # fmt: skip
    if found[1].any():
        raise Differs("a row without tokens must answer zeros")
    k, v = (t.flatten(0, 1)[:length] for t in (keys, values))
    wanted = row_by_row(
        query[:, :1].transpose(0, 1), k, v, (Row(0, 1, length),),
        scaling=0.3, window=None, softcap=None,
    )  # fmt: skip
    return compare(found[:1], wanted, dtype)


def pointwise_parts(device: str, dtype: torch.dtype) -> float:
    """Norm, gated product and rotation against transformers' own."""
    from transformers.models.llama import modeling_llama as llama

    norm = llama.LlamaRMSNorm(72, eps=1e-5).to(dtype)
    norm.weight.data.normal_()
    x = torch.randn(1, 5, 72).to(dtype)
    worst = compare(
        adopt.rms_norm(SimpleNamespace(weight=norm.weight.data.to(device), variance_epsilon=1e-5),
                       x.to(device)), norm(x), dtype,
    )  # fmt: skip
    both = torch.randn(5, 2 * 72).to(dtype)
    gate, up = both.split(72, dim=-1)
    found = adopt.silu_product(*both.to(device).split(72, dim=-1))
    worst = max(worst, compare(found, torch.nn.functional.silu(gate) * up, dtype))
    q = torch.randn(1, 5, 3, 24).to(dtype).transpose(1, 2)
    cos, sin = torch.randn(2, 1, 5, 24).to(dtype)
    wanted, _ = llama.apply_rotary_pos_emb(q, q, cos, sin)
    found = adopt.rotate(q.to(device), cos.to(device), sin.to(device))
    return max(worst, compare(found, wanted, dtype))


Check = Callable[[str, torch.dtype], float]
KERNELS: dict[str, Check] = {
    check.__name__: check
    for check in (
        tokens_under_their_own_slots,
        segments_under_their_own_slots,
        attention_over_pages,
        long_rows_split_over_programs,
        pointwise_parts,
    )
}
