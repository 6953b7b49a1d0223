"""Seeded bugs that the parity oracle must catch. If one passes, the oracle proves nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rootstock_server.adapters.slots import Slots
from rootstock_server.backends import reference
from rootstock_server.backends.step import Row
from rootstock_server.engine import runner


@pytest.fixture
def backend() -> str:
    """The one whose insides are mutated."""
    return "reference"


def run_and_check(rig) -> None:
    """Two generations of tenants through the same slots, long enough to use several KV blocks."""
    versions = [*rig.adapters, None]
    commands = [
        rig.generate([10 + (7 * i + 13 * j) % 100 for j in range(20 + i)], version, max_tokens=20)
        for i, version in enumerate(versions * 2)
    ]
    answers = rig.run(commands)
    for command in commands:
        rig.check(command, answers[command.id])


def test_the_unmutated_engine_passes(rig):
    run_and_check(rig("llama"))


def test_a_wrong_slot_is_caught(rig, monkeypatch):
    one = rig("llama")
    right = runner.attach

    def moved(version):
        return replace(version, slot=version.slot._replace(number=version.slot.number ^ 1))

    def wrong(slots, rows, applied):
        return right(slots, rows, [[(moved(v), scale) for v, scale in each] for each in applied])

    monkeypatch.setattr(runner, "attach", wrong)
    with pytest.raises(AssertionError):
        run_and_check(one)


def test_a_slot_with_leftovers_of_its_last_version_is_caught(rig, monkeypatch):
    one = rig("llama")
    slots = one.engine._slots
    # The wide adapter lives in slot 0 and leaves; the narrow one then moves in.
    wide, narrow = one.adapters[1], one.adapters[0]
    slots.give_back(slots.place(slots.pack(one.engine.residency._fetch(wide).linears)))

    monkeypatch.setattr(Slots, "_wipe", lambda *_: None)
    command = one.generate([20, 30, 40], narrow)
    answers = one.run([command])
    with pytest.raises(AssertionError):
        one.check(command, answers[command.id])


def test_reading_a_neighbours_cache_is_caught(rig, monkeypatch):
    one = rig("llama")
    right = runner.Row

    def leaking(start, stop, kv_length, blocks):
        leaked = (blocks[0] ^ 1, *blocks[1:]) if kv_length > stop - start else blocks
        return right(start, stop, kv_length, leaked)

    monkeypatch.setattr(runner, "Row", leaking)
    with pytest.raises(AssertionError):
        run_and_check(one)


def test_a_mask_one_token_too_wide_is_caught(rig, monkeypatch):
    one = rig("llama")  # built before the bug: the load-time probe would refuse the base
    right = reference._chunk_mask

    def wide(step, row: Row, window):
        mask = right(step, row, window).clone()
        mask[:, -1] = True
        return mask

    monkeypatch.setattr(reference, "_chunk_mask", wide)
    with pytest.raises(AssertionError):
        run_and_check(one)


def test_an_update_added_twice_is_caught(rig, monkeypatch):
    one = rig("llama")
    right = reference.Reference.delta

    def twice(self, ys, x, group, attachment):
        right(self, ys, x, group, attachment)
        right(self, ys, x, group, attachment)

    monkeypatch.setattr(reference.Reference, "delta", twice)
    with pytest.raises(AssertionError):
        run_and_check(one)
