"""Whole mixed batches of a small Llama on the GPU backend, against plain torch on the CPU.

Prompts in chunks beside decoding rows, under different adapters; then decode steps, recorded.
Refuses to know single kernels.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from rootstock_server.adapters.attach import attach
from rootstock_server.adapters.slots import Slots
from rootstock_server.backends.backend import Backend
from rootstock_server.backends.kv_cache import KvCache
from rootstock_server.backends.reference import Reference
from rootstock_server.backends.step import Row, Step, pack
from rootstock_server.backends.triton.backend import Triton
from rootstock_server.backends.triton.recordings import Recordings
from rootstock_server.base.load import Base, prepare
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu_parity import Differs

SMALL = LlamaConfig(
    vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
)  # fmt: skip
# Of the norm of the logits; adapters change them by more than half of it.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2}
RANKS = (8, 5, 16)  # two rank buckets; the fourth prompt runs on the base alone
# (prompt, tokens) of each step: chunks, then decode rows beside a chunk, then decode rows only
SCHEDULE = (
    ((0, 9), (1, 40)),
    ((0, 1), (1, 1), (2, 20)),
    ((0, 1), (1, 1), (2, 13), (3, 6)),
    *[((0, 1), (1, 1), (2, 1), (3, 1))] * 2,
    *[((1, 1), (2, 1), (3, 1))] * 2,
)


@dataclass
class Side:
    """One backend with its own copy of the base, its slots and its cache."""

    base: Base
    slots: Slots
    applied: list[tuple[tuple[SimpleNamespace, float], ...]]  # versions on each prompt's rows
    cache: KvCache

    @torch.inference_mode()
    def logits(self, chunks: list[list[int]], starts: list[int], which: list[int]) -> Tensor:
        rows, start = [], 0
        for chunk, done, prompt in zip(chunks, starts, which, strict=True):
            blocks = tuple(range(4 * prompt, 4 * prompt + 4))
            rows.append(Row(start, start + len(chunk), done + len(chunk), blocks))
            start += len(chunk)
        decode = sum(
            1 for chunk, done in zip(chunks, starts, strict=True) if done and len(chunk) == 1
        )
        attachments = attach(self.slots, rows, [self.applied[prompt] for prompt in which])
        step = Step(*pack(chunks, starts), tuple(rows), decode, self.cache, attachments)
        return self.base.logits(self.base.forward(step)).float().cpu()


def card_of(config: LlamaConfig) -> SimpleNamespace:
    """What an engine reads of a base's card, where there is no pydantic to read a whole one."""
    return SimpleNamespace(
        name="llama", task="generate", hidden_size=config.hidden_size,
        layers=config.num_hidden_layers,
    )  # fmt: skip


def random_update(base: Base, rank: int, scale: float) -> dict[str, SimpleNamespace]:
    """A low-rank update of every linear: `down` [R, in], `up` [out, R]."""
    update = {}
    for group in base.groups:
        for path, out in zip(group.paths, group.outs, strict=True):
            down = torch.randn(rank, group.in_features) / group.in_features**0.5
            update[path] = SimpleNamespace(down=down, up=torch.randn(out, rank) * scale)
    return update


def side(model: LlamaForCausalLM, backend: Backend, updates: list, dtype: torch.dtype) -> Side:
    model = copy.deepcopy(model).to(backend.device, dtype)
    base = prepare(model, card_of(SMALL), backend)
    slots = Slots(base.groups, 64, backend, dtype)
    applied = [
        ((SimpleNamespace(slot=slots.place(slots.pack(update))), 1.0),) for update in updates
    ]
    cache = backend.new_cache(2, 16, base.kv_heads, base.head_dim, dtype)
    return Side(base, slots, [*applied, ()], cache)


def mixed_batches(device: str, dtype: torch.dtype, recordings: Recordings | None) -> float:
    """Largest relative error of any step's logits. Raises Differs above what `dtype` allows."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(SMALL).to(dtype).float().eval().requires_grad_(False)
    truth_base = prepare(copy.deepcopy(model), card_of(SMALL), Reference())
    updates = [random_update(truth_base, rank, 0.5) for rank in RANKS]
    backend = Triton(device)
    backend.recordings = recordings
    tested = side(model, backend, updates, dtype)
    truth = side(model, Reference(), updates, torch.float32)
    generator, done, worst = torch.Generator().manual_seed(2), [0] * 4, 0.0
    for shares in SCHEDULE:
        which = [prompt for prompt, _ in shares]
        chunks = [torch.randint(96, (n,), generator=generator).tolist() for _, n in shares]
        starts = [done[prompt] for prompt in which]
        wanted = truth.logits(chunks, starts, which)
        found = tested.logits(chunks, starts, which)
        error = float((found - wanted).norm() / wanted.norm())
        if not error <= TOLERANCE[dtype]:
            raise Differs(f"step {shares}: relative error {error:.2e} of the logits")
        worst = max(worst, error)
        for prompt, tokens in shares:
            done[prompt] += tokens
    if recordings is not None and (recordings.failure or not len(recordings)):
        raise Differs(f"decode steps were not recorded: {recordings.failure}")
    return worst
