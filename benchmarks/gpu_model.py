"""A base of random weights made on the device, adapters beside it, and its decode steps.

Refuses to know what is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from rootstock_server.adapters.attach import attach
from rootstock_server.adapters.slots import Slots
from rootstock_server.backends.backend import Backend
from rootstock_server.backends.kv_cache import BLOCK_TOKENS
from rootstock_server.backends.step import Row, Step, pack
from rootstock_server.base.load import prepare
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.gpu_batches import card_of

ROPE_8B = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
LLAMA_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "rope_parameters": ROPE_8B,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What is measured: the base's config, the adapters, and how the batches are made."""

    config: dict[str, object]
    dtype: torch.dtype = torch.bfloat16
    rank: int = 16
    adapters: int = 64
    batches: tuple[int, ...] = (1, 8, 32, 64)
    context: int = 256  # tokens in the cache of every row
    prompt: int = 512  # tokens of each of four prompts


class Bench:
    """A prepared base with its adapters and a filled cache; each method runs one step."""

    def __init__(self, shape: Shape, backend: Backend) -> None:
        self.shape, device = shape, backend.device
        config = LlamaConfig(**shape.config)
        torch.manual_seed(0)
        before = torch.get_default_dtype()
        torch.set_default_dtype(shape.dtype)
        try:
            with torch.device(device):
                model = LlamaForCausalLM(config).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(before)
        self.base = prepare(model, card_of(config), backend)
        self.weight_bytes = sum(
            sum(group.outs) * group.in_features * shape.dtype.itemsize for group in self.base.groups
        )
        self._slots = Slots(self.base.groups, 64, backend, shape.dtype)
        self._versions = [self._version() for _ in range(shape.adapters)]
        self._blocks_per_row = -(-max(shape.context, shape.prompt) // BLOCK_TOKENS)
        layers, rows = config.num_hidden_layers, max(*shape.batches, 4)
        base = self.base
        self._cache = backend.new_cache(
            layers, rows * self._blocks_per_row, base.kv_heads, base.head_dim, shape.dtype
        )
        for store in (*self._cache.keys, *self._cache.values):
            store.normal_()
        token = 2 * layers * base.kv_heads * base.head_dim * shape.dtype.itemsize
        self.row_bytes = shape.context * token  # keys and values that a row's step reads

    @property
    def adapter_bytes(self) -> int:
        """What one adapter's true rank on all linears of the layers has to be read."""
        groups = self.base.groups[:-1]  # all but the output embedding
        values = sum(len(g.outs) * g.in_features + sum(g.outs) for g in groups)
        return self.shape.rank * values * self.shape.dtype.itemsize

    def decode(self, rows: int, adapters: int) -> torch.Tensor:
        """One token of `rows` rows under `adapters` different ones: ids [rows], on the device."""
        context = self.shape.context
        placed = [Row(i, i + 1, context, self._blocks(i)) for i in range(rows)]
        ids, positions = pack([[i + 1] for i in range(rows)], [context - 1] * rows)
        attachments = attach(self._slots, placed, self._applied(rows, adapters))
        step = Step(ids, positions, tuple(placed), rows, self._cache, attachments)
        return self.base.logits(self.base.forward(step)).argmax(dim=-1)

    def prefill(self, adapters: int) -> torch.Tensor:
        """Four whole prompts in one step: the ids [4] that follow them."""
        tokens = self.shape.prompt
        placed = [Row(i * tokens, (i + 1) * tokens, tokens, self._blocks(i)) for i in range(4)]
        ids, positions = pack([list(range(1, tokens + 1))] * 4, [0] * 4)
        attachments = attach(self._slots, placed, self._applied(4, adapters))
        hidden = self.base.forward(
            Step(ids % 1000 % self.base.groups[-1].outs[0], positions, tuple(placed), 0,
                 self._cache, attachments)
        )  # fmt: skip
        last = hidden[[row.stop - 1 for row in placed]]
        return self.base.logits(last).argmax(dim=-1)

    def _blocks(self, row: int) -> tuple[int, ...]:
        first = row * self._blocks_per_row
        return tuple(range(first, first + self._blocks_per_row))

    def _applied(self, rows: int, adapters: int) -> list:
        if not adapters:
            return [()] * rows
        return [((self._versions[i % adapters], 1.0),) for i in range(rows)]

    def _version(self) -> SimpleNamespace:
        """A rank-16 update of every linear of the layers, made on the device."""
        update, rank, device = {}, self.shape.rank, self.base.backend.device
        for group in self.base.groups[:-1]:
            for path, out in zip(group.paths, group.outs, strict=True):
                down = torch.randn(rank, group.in_features, device=device, dtype=self.shape.dtype)
                up = torch.randn(out, rank, device=device, dtype=self.shape.dtype)
                update[path] = SimpleNamespace(down=down / group.in_features**0.5, up=up * 0.01)
        return SimpleNamespace(slot=self._slots.place(self._slots.pack(update)))
