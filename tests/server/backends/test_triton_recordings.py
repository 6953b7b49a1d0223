"""Which decode steps the GPU backend replays, and when it records anew. No GPU is needed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from rootstock_server.backends.backend import SlotArrays
from rootstock_server.backends.kv_cache import KvCache
from rootstock_server.backends.step import Attachment, Row, Segment, Step

pytest.importorskip("triton")

from rootstock_server.backends.recordable import recordable
from rootstock_server.backends.triton.recordings import MOST, Recording, Recordings


class Counted(Recordings):
    """Records nothing, and counts how often it would have."""

    recorded = 0

    def _record(self, step, forward):
        self.recorded += 1
        return Recording(SimpleNamespace(replay=lambda: None), forward(step))


def decode_step(rows: int = 3, **fields) -> Step:
    placed = tuple(Row(i, i + 1, 40, (2 * i, 2 * i + 1)) for i in range(rows))
    ids = torch.arange(rows)
    return Step(ids, ids, placed, rows, CACHE, memories=(None,) * rows, **fields)


CACHE = KvCache(1, 100, 1, 8, torch.float32)
ARRAYS = SlotArrays(8, {}, {}, [8, 8])


def attached(arrays: SlotArrays) -> tuple[Attachment, ...]:
    return (Attachment(arrays, (Segment(0, 1, 1),), None),)


def forward(step: Step) -> torch.Tensor:
    return step.token_ids[:, None]  # a view: what a graph's replay would compute anew


def test_decode_rows_under_low_rank_updates_are_replayed():
    assert recordable(decode_step(attachments=attached(ARRAYS)))


def test_steps_that_do_more_run_as_they_are():
    chunk = Step(torch.arange(2), torch.arange(2), (Row(0, 2, 2, (0,)),), 0, CACHE)
    assert not recordable(chunk)
    assert not recordable(decode_step(changes={"layers.0.mlp": ()}))
    assert not recordable(decode_step(encodes=True))
    remembering = decode_step()
    remembering.memories = (None, SimpleNamespace(), None)
    assert not recordable(remembering)


def test_a_size_is_recorded_once_and_again_when_the_arrays_have_moved():
    recordings = Counted(torch.device("cpu"))
    arrays = SlotArrays(8, {}, {}, [8, 8])
    for rows in (3, 4, 3):  # both fill the same four rows
        found = recordings.run(decode_step(rows, attachments=attached(arrays)), forward)
        assert found.flatten().tolist() == list(range(rows))
    assert recordings.recorded == 1
    arrays.ranks.append(0)  # slots have grown: their arrays are new ones
    recordings.run(decode_step(attachments=attached(arrays)), forward)
    recordings.run(decode_step(), forward)
    assert recordings.recorded == 3


def test_recordings_are_bounded():
    recordings = Counted(torch.device("cpu"))
    for _ in range(MOST + 5):
        recordings.run(decode_step(attachments=attached(SlotArrays(8, {}, {}, [8, 8]))), forward)
    assert len(recordings) == MOST


def test_where_recording_fails_steps_still_run():
    class Failing(Recordings):
        def _record(self, step, forward):
            raise RuntimeError("no graphs here")

    recordings = Failing(torch.device("cpu"))
    for _ in range(2):
        assert len(recordings.run(decode_step(), forward)) == 3
    assert recordings.failure == "RuntimeError: no graphs here"
