"""Slots: overwritten whole, grown without moving meaning, apart by rank."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from rootstock_server.adapters.slots import BUCKETS, FIRST_SLOTS, Slot, Slots
from rootstock_server.backends.reference import Reference
from rootstock_server.backends.step import Attachment, Segment
from rootstock_server.errors import AdapterMismatch

ALL = ("0.q", "0.k", "0.v", "0.o", "1.up")
# All of one rank bucket, so that they follow one another through one slot.
TENANTS = [
    (("0.q",), 9), (("0.k", "1.up"), 16), (ALL, 12), (("0.o",), 10), (("0.q", "0.v"), 16)
]  # fmt: skip


def answers(slots: Slots, slot: Slot, groups: list, linears: dict) -> None:
    """Assert that `slot` does to every linear what `linears` say, and nothing to the others."""
    generator = torch.Generator().manual_seed(9)
    attachment = Attachment(slots.arrays(slot), (Segment(0, 5, slot.number),), None)
    for group in groups:
        x = torch.randn(5, group.in_features, generator=generator)
        ys = [torch.zeros(5, out) for out in group.outs]
        Reference().delta(ys, x, group.number, attachment)
        for path, y in zip(group.paths, ys, strict=True):
            one = linears.get(path)
            wanted = x @ one.down.T @ one.up.T if one else torch.zeros_like(y)
            assert torch.allclose(y, wanted, atol=1e-5), path


def fill_free_slots(slots: Slots, value: float) -> None:
    for rank, free in slots._free.items():
        arrays = slots._arrays[rank]
        for number in free:
            for group, down in arrays.down.items():
                down[number] = value
                for up in arrays.up[group]:
                    up[number] = value


@pytest.mark.parametrize(("first", "second"), list(permutations(range(len(TENANTS)), 2)))
def test_the_next_tenant_of_a_slot_finds_nothing_of_the_last(groups, updates, first, second):
    slots = Slots(groups, max_rank=64, backend=Reference())
    before = slots.place(slots.pack(updates(*TENANTS[first], seed=1)))
    slots.give_back(before)
    linears = updates(*TENANTS[second], seed=2)
    after = slots.place(slots.pack(linears))
    assert after == before
    answers(slots, after, groups, linears)


@pytest.mark.parametrize("tenant", range(len(TENANTS)))
def test_not_a_number_in_a_free_slot_never_reaches_its_next_tenant(groups, updates, tenant):
    slots = Slots(groups, max_rank=64, backend=Reference())
    slots.give_back(slots.place(slots.pack(updates(ALL, 16))))
    fill_free_slots(slots, float("nan"))
    linears = updates(*TENANTS[tenant], seed=3)
    answers(slots, slots.place(slots.pack(linears)), groups, linears)


def test_growing_keeps_every_tenant_where_it_is(groups, updates):
    slots = Slots(groups, max_rank=64, backend=Reference())
    count = 4 * FIRST_SLOTS + 1
    tenants = [updates(*TENANTS[n % len(TENANTS)], seed=n) for n in range(count)]
    places = [slots.place(slots.pack(linears)) for linears in tenants]
    assert len(set(places)) == count
    for place, linears in zip(places, tenants, strict=True):
        answers(slots, place, groups, linears)


def test_a_wide_update_does_not_widen_the_narrow_ones(groups, updates):
    slots = Slots(groups, max_rank=256, backend=Reference())
    ranks = (1, *BUCKETS, 9, 17)
    places = [slots.place(slots.pack(updates(("1.up",), rank))) for rank in ranks]
    assert [place.rank for place in places] == [BUCKETS[0], *BUCKETS, 16, 64]
    for bucket in BUCKETS:
        arrays = slots.arrays(Slot(bucket, 0))
        assert arrays.down[2].shape == (FIRST_SLOTS, bucket, 8)
        assert arrays.up[2][0].shape == (FIRST_SLOTS, bucket, 20)


def test_a_packed_version_has_the_bytes_of_a_slot(groups, updates):
    slots = Slots(groups, max_rank=64, backend=Reference())
    linears = updates(ALL, 4)
    arrays = slots.arrays(slots.place(slots.pack(linears)))
    tensors = [*arrays.down.values(), *(up for ups in arrays.up.values() for up in ups)]
    assert slots.pack(linears).nbytes == sum(t[0].nbytes for t in tensors)


def test_a_rank_over_the_limit_is_a_mismatch(groups, updates):
    slots = Slots(groups, max_rank=16, backend=Reference())
    with pytest.raises(AdapterMismatch, match="rank 17 is over this server's max_rank 16"):
        slots.place(slots.pack(updates(("0.q",), 17)))


def test_a_rank_over_every_bucket_is_a_mismatch_whatever_the_limit(groups, updates):
    slots = Slots(groups, max_rank=1000, backend=Reference())
    with pytest.raises(AdapterMismatch, match="max_rank 256"):
        slots.place(slots.pack(updates(("0.q",), BUCKETS[-1] + 1)))


def test_a_linear_that_the_base_lacks_is_a_mismatch_and_takes_no_slot(groups, updates):
    slots = Slots(groups, max_rank=64, backend=Reference())
    linears = updates(("0.q",), 4)
    with pytest.raises(AdapterMismatch, match=r"no linear named 7\.q"):
        slots.place(slots.pack({"7.q": linears["0.q"]}))
    assert slots.place(slots.pack(linears)).number == 0
