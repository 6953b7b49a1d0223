"""Decode steps recorded as CUDA graphs, by number of rows and by the adapters' arrays they read.

A recording reads its inputs from buffers that stay where they are; each step overwrites them.
Refuses to record what it does not know whole: such a step runs as it is.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rootstock_server.backends.recordable import SameArrays, recordable
from rootstock_server.backends.step import Attachment, Row, Step
from rootstock_server.backends.triton import layout

log = logging.getLogger(__name__)

ROWS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
MOST = 48  # recordings kept; the least recently used goes first


@dataclass(frozen=True)
class Recording:
    graph: torch.cuda.CUDAGraph
    hidden: Tensor  # [rows of the recording, D], overwritten by every replay


class Recordings:
    """All recordings of one base on one device. Only the engine's thread may touch it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._kept: OrderedDict[Any, Recording] = OrderedDict()
        self._inputs: dict[int, Inputs] = {}
        self.failure: str | None = None  # why nothing is recorded any more

    def __len__(self) -> int:
        return len(self._kept)

    def run(self, step: Step, forward: Callable[[Step], Tensor]) -> Tensor:
        """Hidden states [T, D]; the next call may overwrite them."""
        rows = len(step.rows)
        size = next((n for n in ROWS if n >= rows), None)
        if self.failure is not None or size is None or not recordable(step):
            return forward(step)
        if size not in self._inputs:
            self._inputs[size] = Inputs(size, step, self._device)
        inputs = self._inputs[size]
        inputs.fill(step)
        key = (size, step.cache, tuple(SameArrays(a.arrays) for a in step.attachments))
        if key not in self._kept:
            try:
                self._kept[key] = self._record(inputs.step(step), forward)
            except Exception as error:  # whatever it is, the step can run without being recorded
                self.failure = f"{type(error).__name__}: {error}"
                log.warning("decode steps run unrecorded, and slower: %s", self.failure)
                self._kept.clear()
                return forward(step)
            if len(self._kept) > MOST:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        recording = self._kept[key]
        recording.graph.replay()
        return recording.hidden[:rows]

    def _record(self, step: Step, forward: Callable[[Step], Tensor]) -> Recording:
        # Once outside: kernels are compiled and libraries make their handles at their first use.
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            forward(step)
        torch.cuda.current_stream(self._device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # thread_local: adapters are prepared on other threads meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            hidden = forward(step)
        return Recording(graph, hidden)


class Inputs:
    """The buffers that all recordings of one size read: what changes from step to step."""

    def __init__(self, size: int, step: Step, device: torch.device) -> None:
        assert step.cache is not None
        self._size, self._device = size, device
        # ids, positions, places, lengths; then slots and ranks of each attachment
        self._numbers = torch.zeros(4, size, dtype=torch.int64, device=device)
        self._table = torch.zeros(size, step.cache.blocks, dtype=torch.int32, device=device)
        self._slots: list[layout.TokenSlots] = []

    def fill(self, step: Step) -> None:
        """Overwrite the buffers with `step`; rows that fill up write nowhere and read nothing."""
        rows, extra = step.rows, self._size - len(step.rows)
        places = [layout.places_of(row, row.kv_length - 1)[0] for row in rows] + [-1] * extra
        lengths = [row.kv_length for row in rows] + [0] * extra
        zeros = torch.zeros(extra, dtype=torch.int64)
        numbers = torch.stack([
            torch.cat([step.token_ids.cpu(), zeros]), torch.cat([step.positions.cpu(), zeros]),
            torch.tensor(places), torch.tensor(lengths),
        ])  # fmt: skip
        self._numbers.copy_(numbers)
        table = torch.tensor(layout.padded_table(rows), dtype=torch.int32)
        self._table[: len(rows), : table.shape[1]].copy_(table)
        for number, attachment in enumerate(step.attachments):
            if number == len(self._slots):
                self._slots.append(self._no_slots())
            self._fill_slots(self._slots[number], attachment, len(rows))

    def step(self, step: Step) -> Step:
        """`step` as a recording sees it: of this size, every number in these buffers."""
        ids, positions, places, lengths = self._numbers
        recorded = replace(
            step,
            token_ids=ids,
            positions=positions,
            rows=tuple(Row(i, i + 1, 1) for i in range(self._size)),
            decode_rows=self._size,
            attachments=tuple(
                Attachment(a.arrays, step.attachments[i].segments, None)
                for i, a in enumerate(step.attachments)
            ),
            scratch={"pages": layout.Pages(places, self._table, lengths)},
        )
        for attachment, slots in zip(recorded.attachments, self._slots, strict=False):
            recorded.scratch["low_rank", id(attachment)] = slots
        return recorded

    def _no_slots(self) -> layout.TokenSlots:
        slots, ranks = torch.zeros(2, self._size, dtype=torch.int64, device=self._device)
        return layout.TokenSlots(slots, ranks, torch.ones(self._size, device=self._device))

    def _fill_slots(self, at: layout.TokenSlots, attachment: Attachment, rows: int) -> None:
        slots, ranks = layout.slot_lists(attachment, self._size)
        both = torch.tensor([slots, ranks]).to(self._device)
        at.slots.copy_(both[0])
        at.ranks.copy_(both[1])
        if attachment.scales is None:
            at.scales.fill_(1.0)
        else:
            at.scales[:rows].copy_(attachment.scales)
