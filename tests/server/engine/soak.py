"""The long forms of what test_preemption_and_prefixes and test_many_versions show in short.

Not collected by `pytest`: `make soak` names this file.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path

import pytest

from tests.server.engine.thrashing import assert_empty, crowd, thrash

RUNS = 50
CYCLES = 1000
SETTLED = 200  # cycles after which the allocator has what it needs
BYTES_A_CYCLE = 10 * 1024
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_nothing_is_another_versions_however_much_comes_and_goes(
    rig, tmp_path: Path, model_type: str
) -> None:
    one = rig(model_type, kv_cache_mib=1, max_batch_tokens=48)
    crowd(one, tmp_path)
    begun = time.monotonic()
    told = [thrash(one, seed) for seed in range(RUNS)]
    sums = {what: sum(run[what] for run in told) for what in told[0]}
    print(f"\n{model_type}: {RUNS} runs in {time.monotonic() - begun:.0f} s, {sums}")
    assert all(sums.values())
    assert_empty(one)


def test_a_thousand_loads_leave_one_version_and_no_memory(rig, tmp_path: Path) -> None:
    one = rig("llama", adapter_memory_mib=1, adapter_host_mib=1)
    for number in range(2):
        one.add_lora(tmp_path / f"big-{number}", ALL, rank=64, seed=200 + number)
    pair = one.adapters[-2:]
    residency = one.engine.residency
    residency._limit = one.engine._slots.pack(residency._fetch(pair[0]).linears).nbytes
    settled = 0
    for cycle in range(CYCLES):
        command = one.generate([20, 30], pair[cycle % 2], max_tokens=1, logprobs=None)
        [event] = one.run([command])[command.id]
        assert event.finish_reason == "length"
        assert [version.digest for version in residency] == [pair[cycle % 2]]
        if cycle == SETTLED:
            settled = resident_bytes()
    grown = (resident_bytes() - settled) / (CYCLES - SETTLED)
    print(f"\n{CYCLES} loads: {grown:.0f} bytes a cycle")
    assert grown < BYTES_A_CYCLE
    assert not any(version.leases for version in residency)


def resident_bytes() -> int:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")
