"""Virtual tokens in a step: in place of the embeddings of placeholders, or ahead in the cache.

Refuses to know requests and kinds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rootstock_adapters.op import Change, Virtual
from torch import Tensor

from rootstock_server.backends.kv_cache import KvCache, write_index
from rootstock_server.backends.step import Placed, Row, Step


@dataclass(frozen=True)
class Replaced(Change):
    """A module's outputs, whatever its inputs were."""

    outputs: Tensor  # [t, D]

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return self.outputs.to(y)


def embedded(virtual: Virtual, computed: int, row: Row) -> Placed | None:
    """The embeddings of those virtual tokens that are in `row`, after the `computed` first ones."""
    if virtual.embeddings is None or computed >= virtual.tokens:
        return None
    outputs = virtual.embeddings[computed : computed + row.tokens]
    return Placed(row.start, row.start + len(outputs), Replaced(outputs), 1.0)


def write_ahead(virtual: Virtual, cache: KvCache, blocks: tuple[int, ...]) -> None:
    """Put keys and values [P, layers·2·H·D] into the first positions of a sequence's `blocks`."""
    if virtual.keys_values is None:
        return
    nothing = torch.empty(0, dtype=torch.long)
    row = Row(0, virtual.tokens, virtual.tokens, blocks)
    index = write_index(Step(nothing, nothing, (row,), cache=cache), cache)
    shape = (virtual.tokens, len(cache.keys), 2, cache.heads, cache.head_dim)
    # [layers, 2, H, P, D]: each layer's keys, then its values
    layers = virtual.keys_values.view(shape).permute(1, 2, 3, 0, 4).to(cache.keys[0])
    for layer, (key, value) in enumerate(layers):
        cache.write(layer, key, value, index)
