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


class Packed(NamedTuple):
    """One version's low-rank updates as a slot of the bucket holds them, by linear group."""

    bucket: int
    rank: int
    down: dict[int, Tensor]  # [members · bucket, in]
    up: dict[int, list[Tensor]]  # a member's [bucket, out]

    @property
    def nbytes(self) -> int:
        ups = (tensor for each in self.up.values() for tensor in each)
        return sum(tensor.nbytes for tensor in (*self.down.values(), *ups))


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
        self._slot_dtype = self._zeros(0).dtype  # the backend's choice
        self._groups = list(groups)
        self._place = {p: (g, m) for g in groups for m, p in enumerate(g.paths)}
        self._max_rank = min(max_rank, BUCKETS[-1])
        self._arrays: dict[int, SlotArrays] = {}
        self._free: dict[int, list[int]] = {}

    def arrays(self, slot: Slot) -> SlotArrays:
        return self._arrays[slot.rank]

    def pack(self, linears: dict[str, LowRank]) -> Packed:
        """The updates laid out as a slot holds them. Any thread may call it.

        Raises AdapterMismatch for a linear that this base lacks or a rank above the limit.
        """
        rank = self._bucket(linears)
        touched = {self._group_of(path).number: self._group_of(path) for path in linears}
        down, up = {}, {}
        for number, group in touched.items():
            down[number] = self._blank(len(group.outs) * rank, group.in_features)
            up[number] = [self._blank(rank, out) for out in group.outs]
            for member, path in enumerate(group.paths):
                if (update := linears.get(path)) is not None:
                    wide = len(update.down)
                    down[number][member * rank : member * rank + wide] = update.down
                    up[number][member][:wide] = update.up.T
        return Packed(rank, max(len(update.down) for update in linears.values()), down, up)

    def place(self, packed: Packed) -> Slot:
        """Copy the updates into a free slot, overwriting all that any earlier tenant left there."""
        arrays = self._arrays.setdefault(packed.bucket, SlotArrays(packed.bucket, {}, {}, []))
        free = self._free.setdefault(packed.bucket, [])
        if not free:
            self._grow(arrays, free)
        for group in self._groups:
            if group.number in packed.down and group.number not in arrays.down:
                self._create(arrays, group)
        number = free.pop(0)
        arrays.ranks[number] = packed.rank
        for group, down in arrays.down.items():
            if group in packed.down:
                down[number] = packed.down[group]
                for up, new in zip(arrays.up[group], packed.up[group], strict=True):
                    up[number] = new
            else:
                self._wipe(arrays, group, number)
        return Slot(packed.bucket, number)

    def _wipe(self, arrays: SlotArrays, group: int, number: int) -> None:
        # zero_, never multiplication: a NaN left behind times zero is still NaN.
        for array in (arrays.down[group], *arrays.up[group]):
            array[number].zero_()

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
        # Both or none: there may be no memory left for the second.
        down = self._zeros(slots, members * rank, group.in_features)
        arrays.up[group.number] = [self._zeros(slots, rank, out) for out in group.outs]
        arrays.down[group.number] = down

    def _blank(self, *shape: int) -> Tensor:
        """In ordinary memory, wherever the slots are."""
        return torch.zeros(shape, dtype=self._slot_dtype)

    def _zeros(self, *shape: int) -> Tensor:
        return self._backend.slot_zeros(*shape, dtype=self._dtype)


def _enlarged(array: Tensor, slots: int) -> Tensor:
    larger = array.new_zeros(slots, *array.shape[1:])
    larger[: len(array)].copy_(array)
    return larger
