"""Which tokens of a step run under which slots, laid out for the backend.

Refuses to know versions and kinds: it sees rows and slots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch

from rootstock_server.adapters.slots import Slot, Slots
from rootstock_server.backends.step import Attachment, Row, Segment, SlotGrid

# A grid pays while it is mostly full: beyond this share of padding the loop does less work.
GRID_WASTE = 3


def attach(
    slots: Slots, rows: Sequence[Row], row_slots: Sequence[Slot | None]
) -> tuple[Attachment, ...]:
    """One attachment per rank bucket in use. `row_slots[i]` is row i's slot, None for the base."""
    placed = [(slot, row) for slot, row in zip(row_slots, rows, strict=True) if slot is not None]
    attachments = []
    for rank in sorted({slot.rank for slot, _ in placed}):
        members = [(slot, row) for slot, row in placed if slot.rank == rank]
        segments = tuple(_segments(members))
        arrays = slots.arrays(members[0][0])
        attachments.append(Attachment(arrays, segments, _grid(segments)))
    return tuple(attachments)


def _segments(members: Iterable[tuple[Slot, Row]]) -> list[Segment]:
    """Rows that touch, under one slot, become one segment."""
    segments: list[Segment] = []
    for slot, row in members:
        last = segments[-1] if segments else None
        if last and last.slot == slot.number and last.stop == row.start:
            segments[-1] = Segment(last.start, row.stop, last.slot)
        else:
            segments.append(Segment(row.start, row.stop, slot.number))
    return segments


def _grid(segments: Sequence[Segment]) -> SlotGrid | None:
    """The grid of `segments`, or None where a loop over them does less work."""
    gapless = all(a.stop == b.start for a, b in pairwise(segments))
    if len(segments) < 2 or not gapless:
        return None
    filled: Counter[int] = Counter()
    places = []
    for segment in segments:
        for _ in range(segment.start, segment.stop):
            places.append((segment.slot, filled[segment.slot]))
            filled[segment.slot] += 1
    width, low, high = max(filled.values()), min(filled), max(filled) + 1
    if (high - low) * width > GRID_WASTE * len(places):
        return None
    cells = [(slot - low) * width + place for slot, place in places]
    in_order = cells == list(range((high - low) * width))
    return SlotGrid(
        slice(low, high),
        width,
        slice(segments[0].start, segments[-1].stop),
        None if in_order else torch.tensor(cells),
    )
