"""Which tokens of a step run under which versions, laid out for the backend and the base.

Refuses to know kinds: a version has a slot of low-rank updates, changes by module, or both.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise

import torch
from torch import Tensor

from rootstock_server.adapters.residency import Applied
from rootstock_server.adapters.slots import Slot, Slots
from rootstock_server.backends.step import Attachment, Placed, Row, Segment, SlotGrid

# A grid pays while it is mostly full: beyond this share of padding the loop does less work.
GRID_WASTE = 3


def attach(
    slots: Slots, rows: Sequence[Row], applied: Sequence[Sequence[Applied]]
) -> tuple[Attachment, ...]:
    """One attachment per rank bucket in use, and again for every further version of a row.

    `applied[i]` are the versions on row i; none for the base.
    """
    attachments = []
    for turn in range(max(map(len, applied), default=0)):
        placed = [
            (versions[turn][0].slot, versions[turn][1], row)
            for versions, row in zip(applied, rows, strict=True)
            if len(versions) > turn and versions[turn][0].slot is not None
        ]
        for rank in sorted({slot.rank for slot, _, _ in placed if slot}):
            members = [(slot, scale, row) for slot, scale, row in placed if slot.rank == rank]
            segments = tuple(_segments((slot, row) for slot, _, row in members))
            scales = _scales([(scale, row) for _, scale, row in members], rows[-1].stop)
            arrays = slots.arrays(members[0][0])
            attachments.append(Attachment(arrays, segments, _grid(segments), scales))
    return tuple(attachments)


def changes(
    rows: Sequence[Row], applied: Sequence[Sequence[Applied]]
) -> dict[str, tuple[Placed, ...]]:
    """By module path: what is done to which of the step's tokens, in the order it is done."""
    placed: dict[str, list[Placed]] = defaultdict(list)
    pairs = zip(applied, rows, strict=True)
    for versions, run in groupby(pairs, key=lambda pair: pair[0]):
        members = [row for _, row in run]
        for version, scale in versions:
            for path, steps in version.prepared.changes.items():
                placed[path] += [
                    Placed(members[0].start, members[-1].stop, change, scale) for change in steps
                ]
    return {path: tuple(each) for path, each in placed.items()}


def _scales(members: Sequence[tuple[float, Row]], tokens: int) -> Tensor | None:
    if all(scale == 1 for scale, _ in members):
        return None
    scales = torch.ones(tokens)
    for scale, row in members:
        scales[row.start : row.stop] = scale
    return scales


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
