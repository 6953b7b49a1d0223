"""What a job may take, and how it steps back: limits in words, pauses while a server is busy."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from rootstock_registry import Registry
from rootstock_trainer import courtesy
from rootstock_trainer import lease as room
from rootstock_trainer.courtesy import Courtesy, busy_file
from rootstock_trainer.lease import MAX_METRICS, Lease
from rootstock_trainer.limits import MIB, JobLimits
from rootstock_trainer.progress import Progress
from rootstock_trainer.sidecar import run
from rootstock_trainer.spec import TrainSpec


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (JobLimits(memory_mib=20), "more than the 20 MiB of memory"),
        (JobLimits(seconds=0.5), "more than the 0.5 seconds that a job may take"),
    ],
)
def test_a_job_that_takes_too_much_is_ended_in_words(
    registry: Registry, home: Path, lora_spec: TrainSpec, limits: JobLimits, says: str
) -> None:
    job = registry.submit_job("local", lora_spec.model_dump(mode="json"))
    stopping = threading.Event()
    sidecar = threading.Thread(target=run, args=(home, stopping, limits))
    sidecar.start()
    end = time.monotonic() + 300
    while registry.job(job.id).finished_at is None and time.monotonic() < end:
        time.sleep(0.02)
    stopping.set()
    sidecar.join(120)
    ended = registry.job(job.id)
    assert ended.state == "failed"
    assert says in (ended.error or "")
    assert registry.adapters("local") == []


def test_without_a_limit_of_its_own_a_job_may_have_half_of_the_memory() -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert JobLimits().memory == whole // 2
    assert JobLimits().exceeded(whole // 2, 3600.0) is None
    assert JobLimits(memory_mib=1).exceeded(MIB, 0.0) is None


def test_time_is_counted_over_all_claims_of_a_job(registry: Registry, lora_spec: TrainSpec) -> None:
    registry.submit_job("local", lora_spec.model_dump(mode="json"))
    for _ in range(2):
        job = registry.claim_job("w", 60.0)
        assert job is not None
        with Lease(registry, job) as lease:
            time.sleep(0.15)
            lease.report(Progress("training", 1, 2, 0.5))
        registry.release_job(job)
    used = Progress.from_row(registry.jobs("local")[0].progress).seconds
    assert 0.3 <= used < 60.0


def test_a_long_run_tells_of_a_hundred_steps_and_of_every_validation(
    registry: Registry, lora_spec: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "HEARTBEAT_S", 60.0)
    submitted = registry.submit_job("local", lora_spec.model_dump(mode="json"))
    job = registry.claim_job("w", 60.0)
    assert job is not None
    with Lease(registry, job) as lease:
        for step in range(1, 1002):
            valid = 0.25 if step == 1000 else None
            lease.report(Progress("training", step, 1001, 0.5, valid_loss=valid))
    told = [e for e in registry.job_events("local", submitted.id) if e.data and "step" in e.data]
    assert len(told) <= MAX_METRICS + 2
    assert told[0].data is not None and told[0].data["step"] == 1001
    assert told[1].message == "Step 1000/1001: training loss=0.5000, validation loss=0.2500"


class Clock:
    """Only who sleeps lets time pass."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_between_steps_a_job_waits_while_the_server_is_busy_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, clock = busy_file(tmp_path), Clock()
    monkeypatch.setattr(courtesy, "time", clock)

    def pause_after(step_s: float) -> float:
        between = Courtesy(file)
        clock.sleep(step_s)
        begun = clock.now
        between.give_way()
        return clock.now - begun

    def touched(seconds_ago: float) -> None:
        os.utime(file, (clock.now - seconds_ago,) * 2)

    assert pause_after(0.2) == 0  # no server
    file.parent.mkdir()
    file.touch()
    touched(0)
    assert pause_after(0.2) == pytest.approx(0.2, abs=2 * courtesy.LOOK_S)
    touched(10)
    assert pause_after(0.2) == 0
