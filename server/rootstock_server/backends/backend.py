"""What a backend must be able to do: linears, updates of many adapters, attention over a cache.

Letters: T tokens, D head size, R rank, S slots, M linears of a group, H heads, B blocks.
Refuses to know how; `reference.py` is the truth that every other backend is tested against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from rootstock_server.backends.kv_cache import KvCache
    from rootstock_server.backends.step import Attachment, Step


@dataclass(frozen=True)
class LinearWeights:
    """One or several linears with one input, their rows stacked: [sum(outs), in]."""

    weight: Tensor
    bias: Tensor | None
    packed: bool  # weight is in oneDNN's own opaque layout


@dataclass
class SlotArrays:
    """Low-rank updates of every slot of one rank bucket, one pair of arrays per linear group.

    Their dtype and device are the backend's choice; `ranks` are the true ranks of what lives there.
    """

    rank: int
    down: dict[int, Tensor]  # group → [S, M·R, in]
    up: dict[int, list[Tensor]]  # group → M of [S, R, out_m]
    ranks: list[int]  # [S]


class Backend(Protocol):
    """One way to do the arithmetic, on one kind of device. Holds no state of a request."""

    name: str
    device: torch.device

    def adopt(self, backbone: nn.Module) -> None:
        """Swap what this backend runs in fewer launches, once the linears are replaced."""

    def run(self, step: Step, forward: Callable[[Step], Tensor]) -> Tensor:
        """What `forward(step)` returns, [T, hidden]; it may be a recording of an earlier one."""

    def linear_prepare(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]
    ) -> LinearWeights:
        """Stack linears ([out_m, in] each) that share their input, laid out for `linear`."""

    def linear(self, weights: LinearWeights, x: Tensor) -> Tensor:
        """`x` [T, in] → [T, sum(outs)]."""

    def slot_zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """An array for slots of a base in `dtype`."""

    def delta(self, ys: Sequence[Tensor], x: Tensor, group: int, attachment: Attachment) -> None:
        """Add each slot's low-rank update to the outputs of one linear group, in place.

        `ys` are M views [T, out_m] of the group's output, `x` is its input [T, in].
        """

    def new_cache(
        self, layers: int, blocks: int, heads: int, head_dim: int, dtype: torch.dtype
    ) -> KvCache:
        """A paged cache of zeros."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, *,
        layer: int, step: Step, scaling: float, window: int | None, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        """Causal attention of a packed step over the paged cache.

        `query` [Hq, T, D], `key` and `value` [H, T, D] → [T, Hq, D]. Writes the step's keys and
        values first. `window` counts the token itself; `softcap` is Gemma 2's (arXiv 2408.00118).
        """

    def attend_bidirectional(
        self, query: Tensor, key: Tensor, value: Tensor, *,
        step: Step, scaling: float, window: int | None,
    ) -> Tensor:  # fmt: skip
        """Attention of packed encoder rows, each over itself only. [H, T, D] → [T, H, D].

        `window` is ModernBERT's: a token sees `window - 1` others on either side.
        """
