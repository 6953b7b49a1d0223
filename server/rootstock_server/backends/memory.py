"""What an encoder-decoder keeps of one request beside the paged cache: the source, as read.

Letters: H heads, L tokens, D head size. Refuses to know which request it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class Memory:
    """Keys and values of one request; gone with the request, so cancelling frees them.

    `source` holds what each decoder layer sees of the encoder's output, [H, L, D] each, written
    once. `target` holds the decoder's own, by layer, where its attention cannot use the cache.
    """

    source: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    target: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def clear(self) -> None:
        """Before the source is read, also where it is read once more."""
        self.source.clear()
        self.target.clear()

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append `key` and `value` [H, t, D] to the target's; return all of them."""
        if layer in self.target:
            keys, values = self.target[layer]
            key, value = torch.cat([keys, key], dim=1), torch.cat([values, value], dim=1)
        self.target[layer] = (key, value)
        return key, value
