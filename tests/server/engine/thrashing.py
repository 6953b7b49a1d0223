"""Many short requests around a few long ones, until nothing stays where it was: versions leave and
come back, rows are thrown out and read again, callers leave at any moment."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

from rootstock_server.engine.request import Cancel, Event, Failed, Generate

THRASHERS = 11
SHAPES = [(["q_proj", "v_proj"], 12), (["gate_proj", "down_proj"], 16)]
FREE_BLOCKS = 18  # of the cache: the anchors alone come to need 14
ANCHOR_TOKENS = 150
LIMIT_S = 120.0


def crowd(rig: Any, folder: Path) -> None:
    """Two more versions; room for the anchors' and one other, and for few rows at once."""
    for number, (targets, rank) in enumerate(SHAPES):
        rig.add_lora(folder / f"crowd-{number}", targets, rank=rank, seed=50 + number)
    residency = rig.engine.residency
    sizes = [rig.engine._slots.pack(residency._fetch(v).linears).nbytes for v in rig.adapters]
    residency._limit = sum(sizes[:2]) + max(sizes[2:])
    assert rig.engine._blocks.take(rig.engine._blocks.total - FREE_BLOCKS)


def thrash(rig: Any, seed: int) -> dict[str, int]:
    """Two anchors under two versions and eleven thrashers; every answer that ended is checked.

    Returns how many answers were checked and cancelled, how often a version had to go, and how
    often a row was thrown out.
    """
    chance = Random(seed)
    versions = [None, *rig.adapters]
    stem = [chance.randrange(10, 110) for _ in range(64)]

    def ask(tokens: int) -> Generate:
        # Some share a beginning, so that prefixes are found, and must not be another version's.
        start = stem[: chance.choice((0, 40, 64))]
        prompt = [*start, *(chance.randrange(10, 110) for _ in range(chance.randint(1, 12)))]
        return rig.generate(prompt, chance.choice(versions), max_tokens=tokens)

    anchors = [
        rig.generate([*stem, 20 + n], rig.adapters[n], max_tokens=ANCHOR_TOKENS) for n in range(2)
    ]
    asked: dict[str, Generate] = {}
    heard: dict[str, list[Event]] = {}
    told = {"checked": 0, "cancelled": 0, "evicted": 0}
    resident: set[str] = set()

    def send(command: Generate) -> None:
        asked[command.id], heard[command.id] = command, []
        assert rig.engine.apply(command) == []

    def leave(request_id: str) -> None:
        rig.engine.apply(Cancel(request_id))
        del asked[request_id], heard[request_id]
        told["cancelled"] += 1

    for command in anchors:
        send(command)
    before = rig.engine.scheduler.preemptions
    deadline = time.monotonic() + LIMIT_S
    while any(command.id in asked for command in anchors):
        assert time.monotonic() < deadline, "the anchors never end"
        while len(asked) < THRASHERS + 2:
            send(ask(chance.choice((2, 8, 60, 150))))
        rig.engine.wake()
        events = rig.engine.step()
        now = {version.digest for version in rig.engine.residency}
        told["evicted"] += len(resident - now)
        resident = now
        for event in events:
            if event.id not in asked:
                continue
            assert not isinstance(event, Failed), event
            heard[event.id].append(event)
            if event.finish_reason:
                rig.check(asked.pop(event.id), heard.pop(event.id))
                told["checked"] += 1
        if chance.random() < 0.05:
            leave(chance.choice([i for i in asked if i not in {a.id for a in anchors}]))
    for request_id in list(asked):
        leave(request_id)
    return told | {"thrown_out": rig.engine.scheduler.preemptions - before}


def assert_empty(rig: Any) -> None:
    beat = rig.engine.heartbeat()
    taken = rig.engine._blocks.total - FREE_BLOCKS
    assert (beat.running, beat.waiting, beat.kv_blocks_used) == (0, 0, taken)
    assert not any(version.leases for version in beat.resident)
