"""However rows are laid out, the grid and the loop over segments give the same update."""

from __future__ import annotations

import random

import pytest
import torch
from rootstock_adapters.op import Prepared
from rootstock_server.adapters.attach import attach
from rootstock_server.adapters.residency import ResidentVersion
from rootstock_server.adapters.slots import Slots
from rootstock_server.backends.reference import Reference
from rootstock_server.backends.step import Row


def applied(slot) -> list:
    return [(ResidentVersion("version", slot, Prepared(), 0), 1.0)] if slot else []


def layout(chance: random.Random, slots: list) -> tuple[list[Row], list]:
    """Rows of 1 to 6 tokens, sorted by slot as the scheduler does, some of them the base's own."""
    owners = sorted(
        (chance.choice([None, *slots]) for _ in range(chance.randint(1, 14))),
        key=lambda slot: (slot.rank, slot.number) if slot else (0, 0),
    )
    rows, start = [], 0
    same = chance.random() < 0.5
    for _ in owners:
        tokens = 1 if same else chance.randint(1, 6)
        rows.append(Row(start, start + tokens, tokens))
        start += tokens
    return rows, owners


@pytest.mark.parametrize("seed", range(40))
def test_every_row_gets_its_own_slots_update(groups, updates, seed):
    chance = random.Random(seed)
    slots = Slots(groups, max_rank=64, backend=Reference())
    tenants = {
        slots.place(slots.pack(linears)): linears
        for linears in (
            updates(chance.choice([("0.q", "0.v"), ("0.q", "0.k", "0.v"), ("1.up",)]), rank, n)
            for n, rank in enumerate([4, 16, 1, 30, 64, 8, 16, 20])
        )
    }
    rows, owners = layout(chance, list(tenants))
    attachments = attach(slots, rows, [applied(owner) for owner in owners])
    for group in groups:
        x = torch.randn(rows[-1].stop, group.in_features)
        ys = [torch.zeros(len(x), out) for out in group.outs]
        for attachment in attachments:
            Reference().delta(ys, x, group.number, attachment)
        for path, y in zip(group.paths, ys, strict=True):
            for row, owner in zip(rows, owners, strict=True):
                tokens = slice(row.start, row.stop)
                one = tenants[owner].get(path) if owner else None
                wanted = x[tokens] @ one.down.T @ one.up.T if one else 0 * y[tokens]
                assert torch.allclose(y[tokens], wanted, atol=1e-4)


def test_both_layouts_are_met_by_the_rows_above(groups, updates):
    """Precondition: some of the random layouts become grids, with and without gaps, some do not."""
    met = set()
    for seed in range(40):
        chance = random.Random(seed)
        slots = Slots(groups, max_rank=64, backend=Reference())
        places = [
            slots.place(slots.pack(updates(("0.q",), rank)))
            for rank in (4, 16, 1, 30, 64, 8, 16, 20)
        ]
        chance.seed(seed)
        rows, owners = layout(chance, places)
        for attachment in attach(slots, rows, [applied(owner) for owner in owners]):
            grid = attachment.grid
            met.add("loop" if grid is None else "whole" if grid.cells is None else "cells")
    assert met == {"loop", "whole", "cells"}


def test_rows_that_touch_under_one_slot_become_one_segment(groups, updates):
    slots = Slots(groups, max_rank=64, backend=Reference())
    slot = slots.place(slots.pack(updates(("0.q",), 4)))
    rows = [Row(n, n + 1, 1) for n in range(4)]
    [attachment] = attach(slots, rows, [[], *[applied(slot)] * 3])
    assert [(s.start, s.stop) for s in attachment.segments] == [(1, 4)]
    assert attach(slots, rows, [[]] * 4) == ()
