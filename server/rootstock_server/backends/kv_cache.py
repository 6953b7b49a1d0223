"""The paged cache of keys and values as plain tensors, and the indices of a step into it.

Refuses to know whose blocks are whose, and how attention is computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rootstock_server.backends.step import Step

BLOCK_TOKENS = 32


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


def write_index(step: Step, cache: KvCache) -> Tensor:
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


def gather_index(step: Step, cache: KvCache, first: int, last: int) -> Tensor:
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
