"""The load-time parity probe: is the packed base the same function as the untouched model?

Some architectures accept our attention and silently ignore it; packed rows would then read one
another. Only comparing outputs finds that, so every base is compared before it serves anybody.
"""

from __future__ import annotations

import torch
from rootstock_adapters.errors import BaseError
from torch import Tensor
from transformers import PreTrainedModel

from rootstock_server.backends.int8 import Int8
from rootstock_server.backends.kv_cache import BLOCK_TOKENS
from rootstock_server.backends.memory import Memory
from rootstock_server.backends.step import Row, Step, pack
from rootstock_server.base.load import Base

LENGTHS = (23, 7, 40)
# Allowed error relative to the largest output. Leaks measure above 0.1 of it, rounding far below.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 6e-2}
INT8_TOLERANCE = 9e-2  # here the error is what 8-bit weights cost, too


def tolerance(base: Base) -> float:
    return INT8_TOLERANCE if isinstance(base.backend, Int8) else TOLERANCE[base.dtype]


def random_prompts(vocab_size: int, context_length: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = [min(length, context_length) for length in LENGTHS]
    # The first ids are often padding and other special tokens, which embeddings may treat apart.
    low = min(10, vocab_size - 1)
    return [torch.randint(low, vocab_size, (n,), generator=generator).tolist() for n in lengths]


@torch.inference_mode()
def expected(model: PreTrainedModel, prompts: list[list[int]]) -> list[Tensor]:
    """Logits (or last hidden states) of each prompt alone, from the untouched model."""
    outputs = [
        model(**{name: torch.tensor([ids], device=model.device) for name, ids in inputs.items()})
        for inputs in _inputs(model, prompts)
    ]
    return [
        (out.logits if "logits" in out else out.last_hidden_state)[0].float() for out in outputs
    ]


@torch.inference_mode()
def check(base: Base, prompts: list[list[int]], wanted: list[Tensor]) -> float:
    """Largest relative error of the packed base. Raises BaseError above the tolerance."""
    found = _chunked(base, prompts) if base.output else _packed(base, prompts)
    # Relative to what this base answers: some have small outputs, and leaks then are small, too.
    largest = torch.cat([tensor.flatten() for tensor in wanted]).abs().max()
    difference = torch.cat([(a - b).flatten() for a, b in zip(found, wanted, strict=True)])
    error = float(difference.abs().max() / largest)
    if not error <= tolerance(base):  # NaN fails too
        raise BaseError(
            f"base {base.card.name} ({base.card.model_type}): packed requests differ "
            f"from single ones by {error:.1e} of the largest output; it is not served"
        )
    return error


def _inputs(model: PreTrainedModel, prompts: list[list[int]]) -> list[dict[str, list[int]]]:
    """What the untouched model is called with; an encoder-decoder writes a prompt of its own."""
    if not model.config.is_encoder_decoder:
        return [{"input_ids": prompt} for prompt in prompts]
    return [
        {"input_ids": source, "decoder_input_ids": prompt}
        for source, prompt in zip(_sources(prompts), prompts, strict=True)
    ]


def _sources(prompts: list[list[int]]) -> list[list[int]]:
    """What an encoder-decoder reads before it writes `prompts`: texts of other lengths."""
    return [*prompts[1:], *prompts[:1]]


def _packed_step(prompts: list[list[int]]) -> Step:
    ids, positions = pack(prompts, [0] * len(prompts))
    rows, start = [], 0
    for prompt in prompts:
        rows.append(Row(start, start + len(prompt), len(prompt)))
        start += len(prompt)
    return Step(ids, positions, tuple(rows))


def _packed(base: Base, prompts: list[list[int]]) -> list[Tensor]:
    step = _packed_step(prompts)
    hidden = base.forward(step).float()
    return [hidden[row.start : row.stop] for row in step.rows]


def _memories(base: Base, prompts: list[list[int]]) -> list[Memory | None]:
    """Of an encoder-decoder: its sources, read in one packed step."""
    if base.halves is None:
        return [None] * len(prompts)
    memories: list[Memory | None] = [Memory() for _ in prompts]
    step = _packed_step(_sources(prompts))
    step.encodes, step.memories = True, tuple(memories)
    base.forward(step)
    return memories


def _chunked(base: Base, prompts: list[list[int]]) -> list[Tensor]:
    """Prefill in two chunks and decode, mixed in one step, as serving does."""
    cache = base.new_cache(64)
    blocks = [tuple(range(2 * i, 2 * i + 2)) for i in range(len(prompts))]
    if (
        cache is None
        or cache.blocks < 2 * len(prompts)
        or max(map(len, prompts)) > 2 * BLOCK_TOKENS
    ):
        raise BaseError(f"base {base.card.name}: its cache does not fit the probe")
    memories = _memories(base, prompts)
    done = [0] * len(prompts)
    logits: list[list[Tensor]] = [[] for _ in prompts]
    for shares in _schedule(prompts):
        chunks = [prompts[i][done[i] : done[i] + n] for i, n in shares]
        rows, start = [], 0
        for (i, _), chunk in zip(shares, chunks, strict=True):
            rows.append(Row(start, start + len(chunk), done[i] + len(chunk), blocks[i]))
            start += len(chunk)
        decode = sum(1 for (i, n) in shares if n == 1 and done[i])
        ids, positions = pack(chunks, [done[i] for i, _ in shares])
        step = Step(ids, positions, tuple(rows), decode_rows=decode, cache=cache)
        step.memories = tuple(memories[i] for i, _ in shares)
        out = base.logits(base.forward(step))
        for (i, n), row in zip(shares, rows, strict=True):
            logits[i].append(out[row.start : row.stop])
            done[i] += n
    return [torch.cat(parts) for parts in logits]


def _schedule(prompts: list[list[int]]) -> list[list[tuple[int, int]]]:
    """(prompt, tokens) per step, decode rows first: prefill two, decode them beside a chunk."""
    first, second, third = (len(prompt) for prompt in prompts)
    half = third // 2
    return [
        [(0, first - 2), (1, second - 2)],
        [(0, 1), (1, 1), (2, half)],
        [(0, 1), (1, 1), (2, third - half)],
    ]
