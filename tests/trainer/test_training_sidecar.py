"""The sidecar process: it finds queued jobs by itself, and ends when it is told to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rootstock_registry import Registry
from rootstock_trainer.spec import TrainSpec


@contextmanager
def sidecar(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "rootstock_trainer.sidecar", "--home", str(home)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_queued_jobs_of_every_tenant_are_run_one_after_the_other(
    registry: Registry, home: Path, head_spec: TrainSpec
) -> None:
    registry.create_tenant("acme")
    row = head_spec.model_dump(mode="json")
    broken = registry.submit_job("local", row | {"label_column": "nothing"})
    good = registry.submit_job("acme", row)
    with sidecar(home) as process:
        wait_for(lambda: registry.job(good.id).finished_at is not None)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
    assert "no column named 'nothing'" in (registry.job(broken.id).error or "")
    assert registry.job(good.id).version_digest == registry.resolve("acme", "mood:1").digest
    assert registry.adapters("local") == []


def test_sigterm_ends_sidecar_and_worker_with_status_zero(
    registry: Registry, home: Path, lora_spec: TrainSpec
) -> None:
    endless = lora_spec.model_copy(update={"hyperparameters": {"n_epochs": 1000}})
    job = registry.submit_job("local", endless.model_dump(mode="json"))
    with sidecar(home) as process:
        wait_for(lambda: registry.job(job.id).progress.get("stage") == "training")
        (worker,) = children(process.pid)
        assert os.getpriority(os.PRIO_PROCESS, worker) == 10
        assert os.sched_getscheduler(worker) == os.SCHED_IDLE
        # Others are busy here, too: at the lowest priority it might not come to its checkpoint.
        os.sched_setscheduler(worker, os.SCHED_OTHER, os.sched_param(0))
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        assert not Path(f"/proc/{worker}").exists()
    # Not failed: it waits, and goes on from the checkpoint that its worker wrote.
    assert registry.job(job.id).state == "queued"
    assert registry.job_checkpoints("local", job.id)
    assert registry.adapters("local") == []


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
