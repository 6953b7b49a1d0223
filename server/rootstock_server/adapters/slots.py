"""Slots: the places in the engine's arrays where versions' updates live, by rank bucket.

A slot is a place, never an identity: who lives in it is residency's business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from rootstock_server.backends.backend import Backend, SlotArrays
from rootstock_server.errors import AdapterMismatch

if TYPE_CHECKING:
    from rootstock_adapters.op import LowRank

# A wide adapter must not widen the arrays of the narrow ones.
BUCKETS = (8, 16, 64, 256)
FIRST_SLOTS = 8


class Group(Protocol):
    """What slots need to know of a linear group of the base."""

    number: int
    paths: list[str]
    outs: list[int]
    in_features: int


class Slot(NamedTuple):
    rank: int  # which bucket
    number: int  # which place in it


class Slots:
    """All buckets over all linear groups of one base. Only the engine's thread may touch it."""

    def __init__(
        self,
        groups: Sequence[Group],
        max_rank: int,
        backend: Backend,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._backend, self._dtype = backend, dtype
        self._groups = list(groups)
        self._place = {p: (g, m) for g in groups for m, p in enumerate(g.paths)}
        self._max_rank = min(max_rank, BUCKETS[-1])
        self._arrays: dict[int, SlotArrays] = {}
        self._free: dict[int, list[int]] = {}

    def arrays(self, slot: Slot) -> SlotArrays:
        return self._arrays[slot.rank]

    def slot_bytes(self, linears: dict[str, LowRank]) -> int:
        """Bytes of one slot for an adapter that touches these linears."""
        rank = self._bucket(linears)
        groups = {self._group_of(path).number: self._group_of(path) for path in linears}
        values = sum(
            len(g.outs) * rank * g.in_features + rank * sum(g.outs) for g in groups.values()
        )
        return self._zeros(0).element_size() * values

    def take(self, linears: dict[str, LowRank]) -> Slot:
        """Copy the updates into a free slot, overwriting all that any earlier tenant left there.

        Raises AdapterMismatch for a linear that this base lacks or a rank above the limit.
        """
        rank = self._bucket(linears)
        touched = {self._group_of(path).number for path in linears}
        arrays = self._arrays.setdefault(rank, SlotArrays(rank, {}, {}, []))
        free = self._free.setdefault(rank, [])
        if not free:
            self._grow(arrays, free)
        for group in self._groups:
            if group.number in touched and group.number not in arrays.down:
                self._create(arrays, group)
        number = free.pop(0)
        arrays.ranks[number] = max(len(update.down) for update in linears.values())
        for group in self._groups:
            if group.number in arrays.down:
                self._write(arrays, group, number, linears)
        return Slot(rank, number)

    def give_back(self, slot: Slot) -> None:
        """Free a slot that no request of this or a later step refers to."""
        free = self._free[slot.rank]
        free.append(slot.number)
        free.sort()  # low numbers first: dense ranges of slots make one product

    def _bucket(self, linears: dict[str, LowRank]) -> int:
        rank = max(len(update.down) for update in linears.values())
        if rank > self._max_rank:
            raise AdapterMismatch(f"rank {rank} is over this server's max_rank {self._max_rank}")
        return next(bucket for bucket in BUCKETS if rank <= bucket)

    def _group_of(self, path: str) -> Group:
        if path not in self._place:
            raise AdapterMismatch(f"this base has no linear named {path}")
        return self._place[path][0]

    def _grow(self, arrays: SlotArrays, free: list[int]) -> None:
        """Double the slots. Old contents move; requests refer to slots by number, not address."""
        old = len(arrays.ranks)
        new = max(FIRST_SLOTS, 2 * old)
        for number, down in arrays.down.items():
            arrays.down[number] = _enlarged(down, new)
            arrays.up[number] = [_enlarged(up, new) for up in arrays.up[number]]
        arrays.ranks.extend([0] * (new - old))
        free.extend(range(old, new))

    def _create(self, arrays: SlotArrays, group: Group) -> None:
        slots = len(arrays.ranks)
        rank, members = arrays.rank, len(group.outs)
        arrays.down[group.number] = self._zeros(slots, members * rank, group.in_features)
        arrays.up[group.number] = [self._zeros(slots, rank, out) for out in group.outs]

    def _zeros(self, *shape: int) -> Tensor:
        return self._backend.slot_zeros(*shape, dtype=self._dtype)

    def _write(
        self, arrays: SlotArrays, group: Group, number: int, linears: dict[str, LowRank]
    ) -> None:
        down, ups = arrays.down[group.number], arrays.up[group.number]
        for member, path in enumerate(group.paths):
            top = member * arrays.rank
            place = down[number, top : top + arrays.rank]
            # fill_ and copy_, never multiplication: a NaN left behind times zero is still NaN.
            place.zero_()
            ups[member][number].zero_()
            update = linears.get(path)
            if update is not None:
                rank = len(update.down)
                place[:rank].copy_(update.down)
                ups[member][number, :rank].copy_(update.up.T)


def _enlarged(array: Tensor, slots: int) -> Tensor:
    larger = array.new_zeros(slots, *array.shape[1:])
    larger[: len(array)].copy_(array)
    return larger
