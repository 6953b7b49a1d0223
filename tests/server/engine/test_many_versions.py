"""More versions than memory, versions that cannot be loaded, newcomers while others run."""

from __future__ import annotations

import os
import random
from itertools import permutations
from pathlib import Path

import pytest
from rootstock_server.engine.request import Failed

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPES = [
    (["q_proj"], 1), (["down_proj"], 8), (["k_proj", "o_proj"], 3), (["v_proj"], 20),
    (ALL, 40), (["gate_proj", "up_proj"], 64),
]  # fmt: skip


def add_adapters(rig, folder: Path, count: int) -> list[str]:
    for number in range(count):
        targets, rank = SHAPES[number % len(SHAPES)]
        # Small enough a change that each model still has clear winners.
        rig.add_lora(folder / f"adapter-{number}", targets, rank=rank, seed=100 + number)
    return rig.adapters[-count:]


def failure(events: list) -> Failed:
    [failed] = [event for event in events if isinstance(event, Failed)]
    return failed


def assert_idle(rig) -> None:
    beat = rig.engine.heartbeat()
    assert (beat.running, beat.waiting, beat.kv_blocks_used) == (0, 0, 0)
    assert not any(version.leases for version in beat.resident)


def test_sixteen_at_once_over_more_versions_than_memory_are_all_answered_right(rig, tmp_path):
    one = rig("llama", adapter_memory_mib=1, max_running=16)
    versions = [None, *one.adapters, *add_adapters(one, tmp_path, 17)]
    chance = random.Random(0)
    commands = [
        one.generate([chance.randrange(10, 110) for _ in range(chance.randint(1, 40))], version)
        for version in chance.sample(versions * 3, 3 * len(versions))
    ]
    evictions, before = 0, set()
    step = one.engine.step

    def watched():
        nonlocal evictions, before
        events = step()
        now = {version.digest: version for version in one.engine.residency}
        for request in one.engine.scheduler.running:
            for digest, lease in request.leases.items():
                assert now[digest] is lease and lease.leases
        assert sum(version.nbytes for version in now.values()) <= 1 << 20
        evictions += len(before - now.keys())
        before = set(now)
        return events

    one.engine.step = watched
    answers = one.run(commands)
    for command in commands:
        one.check(command, answers[command.id])
    assert evictions > 10
    assert_idle(one)


def test_a_cold_version_is_answered_though_hot_ones_never_pause(rig, tmp_path):
    """Two hot versions fill the memory, and each has a request running at any moment."""
    one = rig("llama", adapter_memory_mib=1)
    for number in range(3):
        one.add_lora(tmp_path / f"big-{number}", ALL, rank=64, seed=200 + number)
    *hot, cold = one.adapters[-3:]
    residency = one.engine.residency
    wanted = one.generate([20, 30], cold, max_tokens=2)
    size = one.engine._slots.pack(residency._fetch(cold).linears).nbytes
    residency._limit = 2 * size
    ends = {}

    def keep_busy():
        for digest in hot:
            ours = [c for c in ends.values() if [a.version for a in c.adapters] == [digest]]
            if len(ours) < 2:
                command = one.generate([40, 50], digest, max_tokens=3 + len(ours))
                ends[command.id] = command
                one.engine.apply(command)

    answer = []
    for number in range(300):
        keep_busy()
        if number == 10:
            one.engine.apply(wanted)
        for event in one.engine.step():
            answer += [event] if event.id == wanted.id else []
            if event.finish_reason:
                ends.pop(event.id, None)
        if answer and answer[-1].finish_reason:
            break
        for load in list(residency._loading.values()):
            load.result(60)
    one.check(wanted, answer)


def test_every_pair_of_tenants_of_one_slot(rig, tmp_path):
    one = rig("llama")
    digests = add_adapters(one, tmp_path, len(SHAPES))
    residency = one.engine.residency
    sizes = {d: one.engine._slots.pack(residency._fetch(d).linears).nbytes for d in digests}
    same_slot = 0
    for pair in permutations(digests, 2):
        slots = []
        for digest in pair:
            residency._limit = sizes[digest]  # room for this one alone: the last tenant must go
            command = one.generate([20, 30, 40], digest, max_tokens=3)
            answers = one.run([command])
            one.check(command, answers[command.id])
            [tenant] = residency
            slots.append(tenant.slot)
        assert {slot.number for slot in slots} == {0}
        same_slot += slots[0] == slots[1]
    assert same_slot >= 6  # the others are of different rank buckets, which share no slots


def test_not_a_number_in_free_slots_reaches_nobody(rig):
    one = rig("llama")
    first = [one.generate([20, 30, n], version) for n, version in enumerate(one.adapters, 40)]
    one.run(first[1:])
    slots = one.engine._slots
    for rank, free in slots._free.items():
        arrays = slots._arrays[rank]
        for group in arrays.down:
            for array in (arrays.down[group], *arrays.up[group]):
                array[free] = float("nan")
    commands = [
        one.generate([20 + n, 30], version)
        for n, version in enumerate([None, *one.adapters, *one.adapters, None])
    ]
    answers = one.run(commands)
    for command in commands:
        one.check(command, answers[command.id])


def test_a_rank_over_the_limit_fails_its_own_request_only(rig, tmp_path):
    one = rig("llama", max_rank=16)
    narrow, wide, _ = one.adapters
    wider = one.add_lora(tmp_path / "wider", ["q_proj"], rank=24, seed=5).digest
    commands = [one.generate([20, 30], version) for version in (narrow, wider, wide, None)]
    answers = one.run(commands)
    told = failure(answers[commands[1].id])
    assert told.error == "AdapterMismatch"
    assert "rank 24" in told.message and "max_rank 16" in told.message
    for command in (commands[0], commands[2], commands[3]):
        one.check(command, answers[command.id])


def blob_of(rig, digest: str) -> Path:
    part = rig.registry.manifest(digest).parts[0].blob.removeprefix("sha256:")
    shelf = rig.registry.blobs._shelf._root
    # Its folders are named after the first digits: a short name may end this digest by chance.
    [file] = [f for f in shelf.rglob("*") if f.is_file() and part.endswith(f.name)]
    return file


def test_a_damaged_blob_fails_its_own_request_until_it_is_restored(rig):
    one = rig("llama")
    file = blob_of(one, one.adapters[1])
    whole = file.read_bytes()
    os.chmod(file, 0o600)
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    commands = [one.generate([20, 30], version) for version in [*one.adapters, None]]
    answers = one.run(commands)
    assert failure(answers[commands[1].id]).error == "CorruptAdapter"
    for command in (commands[0], commands[2], commands[3]):
        one.check(command, answers[command.id])
    file.write_bytes(whole)
    again = one.generate([20, 30], one.adapters[1])
    one.check(again, one.run([again])[again.id])


def test_a_version_of_another_base_is_a_mismatch(rig):
    one, other = rig("llama"), rig("gpt2")
    foreign = one.generate([20, 30], other.adapters[0])
    own = one.generate([20, 30], None)
    answers = one.run([foreign, own])
    told = failure(answers[foreign.id])
    assert told.error == "AdapterMismatch" and "gpt2" in told.message and "llama" in told.message
    one.check(own, answers[own.id])


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "../../etc/passwd", ""])
def test_an_unknown_digest_is_never_answered_by_the_base(rig, digest):
    one = rig("llama")
    for command in (one.generate([20, 30], digest), one.encode([20, 30], None, [digest])):
        [failed] = one.run([command])[command.id]
        assert failed.error == "CorruptAdapter"


def test_a_version_without_a_head_cannot_classify(rig):
    one = rig("bert")
    bad, good = one.encode([20, 30], None, [one.adapters[0]]), one.encode([20], None, [*one.heads])
    answers = one.run([bad, good])
    assert failure(answers[bad.id]).error == "AdapterMismatch"
    one.check(good, answers[good.id])


def test_a_version_loaded_while_a_stream_runs_does_not_change_the_stream(rig, tmp_path):
    """Twelve newcomers: the slots grow, and their arrays move, under the running rows."""
    one = rig("llama")
    for number in range(12):
        one.add_lora(tmp_path / f"new-{number}", ALL[number % 6 :][:2], rank=9, seed=300 + number)
    old, new = one.adapters[:3], one.adapters[3:]
    streams = [one.generate([20, 30, 40], version, max_tokens=60) for version in [None, *old]]
    alone = [one.run([c])[c.id] for c in streams]
    arrays = one.engine._slots._arrays[16]
    before = len(next(iter(arrays.down.values())))
    newcomers = [one.generate([50, 60], version) for version in new]
    answers = {command.id: [] for command in [*streams, *newcomers]}
    for number in range(10_000):
        arrivals = streams if number == 0 else newcomers if number == 8 else []
        for command in arrivals:
            assert one.engine.apply(command) == []
        for event in one.engine.step():
            answers[event.id].append(event)
        one.engine.wake()
        if number > 8 and not one.engine.scheduler.running:
            if not one.engine.scheduler.waiting:
                break
            for load in list(one.engine.residency._loading.values()):
                load.result(60)
    assert len(next(iter(arrays.down.values()))) > before
    for command in [*streams, *newcomers]:
        one.check(command, answers[command.id])
    for command, events in zip(streams, alone, strict=True):
        assert [e.token_id for e in answers[command.id]] == [e.token_id for e in events]
