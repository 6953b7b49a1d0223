"""The shape of one step, as backends and attention see it: rows packed into one token axis.

T tokens of S rows, decode rows (one token each) first. Refuses to know requests and names.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rootstock_adapters.op import Change

    from rootstock_server.backends.backend import Backend, SlotArrays
    from rootstock_server.backends.kv_cache import KvCache
    from rootstock_server.backends.memory import Memory


@dataclass(frozen=True)
class Row:
    """One sequence's share of a step: tokens `start:stop` of the packed axis."""

    start: int
    stop: int
    kv_length: int  # tokens in the cache once this step's are written
    blocks: tuple[int, ...] = ()  # its cache blocks, in order; empty without a cache

    @property
    def tokens(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Segment:
    """A run of tokens `start:stop` under one slot."""

    start: int
    stop: int
    slot: int


@dataclass(frozen=True)
class SlotGrid:
    """Segments laid out as a dense grid [slots, width] of tokens, for one batched product."""

    slots: slice  # the covered range of slots
    width: int  # the most tokens that any of them has
    tokens: slice  # the covered tokens of the step, without a gap
    cells: Tensor | None  # [t] int64: cell of each token in the flattened grid; None: all, in order


@dataclass(frozen=True)
class Attachment:
    """Which tokens of a step run under which slot of one family of slot arrays."""

    arrays: SlotArrays
    segments: tuple[Segment, ...]
    grid: SlotGrid | None  # where one batched product beats a loop over the segments
    scales: Tensor | None = None  # [T] fp32, each token's factor on its update; None: all 1

    @cached_property
    def runs(self) -> Tensor:
        """The segments as [n, 3] int64: start, stop, slot."""
        return torch.tensor([(run.start, run.stop, run.slot) for run in self.segments])

    @cached_property
    def ranks(self) -> Tensor:
        """True rank of every slot: [S] int64."""
        return torch.tensor(self.arrays.ranks)


@dataclass(frozen=True)
class Placed:
    """A change of one module's output for tokens `start:stop`, weighed by `scale`."""

    start: int
    stop: int
    change: Change
    scale: float

    def apply(self, x: Tensor, y: Tensor) -> None:
        """Rewrite this change's tokens of the output `y` [T, …] for the input `x` [T, …]."""
        before = y[self.start : self.stop]
        after = self.change.after(x[self.start : self.stop], before)
        y[self.start : self.stop] = after if self.scale == 1 else before.lerp(after, self.scale)


@dataclass
class Step:
    """Everything that attention and the linears need to know about the running forward pass."""

    token_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64
    rows: tuple[Row, ...]
    decode_rows: int = 0
    cache: KvCache | None = None
    attachments: tuple[Attachment, ...] = ()
    changes: dict[str, tuple[Placed, ...]] = field(default_factory=dict)  # by module path
    memories: tuple[Memory | None, ...] = ()  # of an encoder-decoder's rows, one for each
    encodes: bool = False  # of an encoder-decoder: its encoder reads, its decoder writes
    backend: Backend | None = None  # the base's, set when the step runs
    scratch: dict[object, Any] = field(default_factory=dict)  # a backend's masks and indices


_running = threading.local()


@contextmanager
def running(step: Step) -> Iterator[None]:
    """Make `step` the one that attention and linears of this thread see."""
    _running.step = step
    try:
        yield
    finally:
        _running.step = None


def current() -> Step:
    step: Step | None = getattr(_running, "step", None)
    if step is None:
        raise RuntimeError("the base was called outside a step: use runner.forward")
    return step


def pack(chunks: list[list[int]], starts: list[int]) -> tuple[Tensor, Tensor]:
    """Token ids and positions [T] of `chunks`, where chunk i begins at position `starts[i]`."""
    ids = torch.tensor([token for chunk in chunks for token in chunk], dtype=torch.long)
    positions = torch.tensor(
        [p for c, start in zip(chunks, starts, strict=True) for p in range(start, start + len(c))],
        dtype=torch.long,
    )
    return ids, positions
