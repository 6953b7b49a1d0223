"""The worker process and the foreground: one process per job, its end in the job's row."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from rootstock_registry import Job, Registry
from rootstock_registry.errors import Conflict
from rootstock_trainer import lease as lease_room
from rootstock_trainer.errors import TrainingFailed
from rootstock_trainer.foreground import run_foreground
from rootstock_trainer.launch import Worker
from rootstock_trainer.lease import Interrupted, Lease
from rootstock_trainer.progress import Progress
from rootstock_trainer.spec import TrainSpec
from rootstock_trainer.worker import FAILED, NOT_OURS, OUR_FAULT, PUT_DOWN, REGISTERED, main, work

ONE_THREAD = {"OMP_NUM_THREADS": "1"}


def arguments(home: Path, job: Job) -> list[str]:
    return ["--home", str(home), "--job", job.id, "--fence", str(job.fence)]


def test_worker_process_turns_a_claimed_job_into_a_version(
    registry: Registry, home: Path, head_spec: TrainSpec, claimed: Callable[[TrainSpec], Job]
) -> None:
    job = claimed(head_spec)
    process = Worker(home, job, ONE_THREAD)
    assert process.close(registry).strip() == ""
    ended = registry.job(job.id)
    assert (ended.state, ended.error) == ("succeeded", None)
    assert ended.version_digest == registry.resolve("local", "mood:1").digest
    notes = Progress.from_row(ended.progress).notes
    assert "100 texts embedded" in notes[0]


def test_bad_data_ends_the_job_in_words(
    registry: Registry, home: Path, head_spec: TrainSpec, claimed: Callable[[TrainSpec], Job]
) -> None:
    head_spec.data.write_text("text,label\na,\n")
    job = claimed(head_spec)
    assert main(arguments(home, job)) == FAILED
    assert "line 2: label is empty" in (registry.job(job.id).error or "")


def test_worker_of_an_older_claim_registers_nothing(
    registry: Registry,
    home: Path,
    head_spec: TrainSpec,
    capsys: pytest.CaptureFixture[str],
) -> None:
    job = registry.submit_job("local", head_spec.model_dump(mode="json"))
    zombie = registry.claim_job("zombie", 0.0, job.id)
    heir = registry.claim_job("heir", 60.0, job.id)
    assert zombie is not None
    assert main(arguments(home, zombie)) == NOT_OURS
    assert "held by somebody else" in capsys.readouterr().err
    assert work(registry, home, zombie) == NOT_OURS
    assert registry.adapters("local") == []
    assert registry.job(job.id) == heir


def test_lease_lost_in_the_middle_stops_the_work_and_registers_nothing(
    registry: Registry,
    home: Path,
    lora_spec: TrainSpec,
    claimed: Callable[[TrainSpec], Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A heartbeat so rare that the lease runs out between two of them, as on a stalled machine.
    monkeypatch.setattr(lease_room, "HEARTBEAT_S", 3600.0)
    monkeypatch.setattr(lease_room, "LEASE_S", 0.0)
    spec = lora_spec.model_copy(update={"hyperparameters": {"n_epochs": 40}})
    job = claimed(spec)
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(work(registry, home, job)))
    thread.start()
    wait_for(lambda: registry.job(job.id).progress.get("stage") == "training")
    heir = registry.claim_job("heir", 60.0, job.id)
    assert heir is not None
    assert heir.fence == job.fence + 1
    thread.join(600)
    assert statuses == [NOT_OURS]
    assert registry.adapters("local") == []
    assert registry.job(job.id).state == "running"


def test_heartbeat_renews_the_lease_and_shows_progress(
    registry: Registry,
    head_spec: TrainSpec,
    claimed: Callable[[TrainSpec], Job],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lease_room, "HEARTBEAT_S", 0.02)
    job = claimed(head_spec)
    with Lease(registry, job) as lease:
        lease.report(Progress("embedding", 1, 10))
        lease.report(Progress("embedding", 7, 10))
        wait_for(lambda: registry.job(job.id).progress["done"] == 7)
        first = registry.job(job.id).lease_expires_at
        wait_for(lambda: registry.job(job.id).lease_expires_at != first)
        registry.fail_job(job, "taken away")
        with pytest.raises(Conflict):
            while True:
                lease.report(Progress("embedding", 8, 10))
                time.sleep(0.01)


def test_a_stop_that_comes_between_a_step_and_its_report_waits_for_a_checkpoint(
    registry: Registry, head_spec: TrainSpec, claimed: Callable[[TrainSpec], Job]
) -> None:
    with Lease(registry, claimed(head_spec)) as lease:
        assert not lease.interrupted
        lease.stop()
        lease.report(Progress("training", 1, 10))
        assert lease.interrupted
        with pytest.raises(Interrupted):
            lease.report(Progress("training", 2, 10))


def test_our_own_fault_is_one_sentence_in_the_row_and_a_traceback_in_the_log(
    registry: Registry,
    home: Path,
    head_spec: TrainSpec,
    claimed: Callable[[TrainSpec], Job],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("one\ntwo")

    monkeypatch.setattr("rootstock_trainer.train.train", broken)
    job = claimed(head_spec)
    assert work(registry, home, job) == OUR_FAULT
    assert registry.job(job.id).error == "unexpected ZeroDivisionError: one"
    assert "Traceback" in capsys.readouterr().err


def test_job_whose_workers_keep_being_killed_fails_in_words(
    registry: Registry, home: Path, head_spec: TrainSpec, claimed: Callable[[TrainSpec], Job]
) -> None:
    job: Job | None = claimed(head_spec)
    for _ in range(3):
        assert job is not None
        process = Worker(home, job, ONE_THREAD)
        os.kill(process.pid, signal.SIGKILL)
        process.close(registry)
        job = registry.claim_job("the test", 60.0)
    assert job is None
    (ended,) = registry.jobs("local")
    assert ended.error is not None
    assert ended.error.startswith("the worker process ended with signal 9 (3 times")


def test_foreground_shows_progress_and_returns_the_version(
    home: Path, registry: Registry, head_spec: TrainSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    screen = io.StringIO()
    version = run_foreground(home, "local", head_spec, Console(file=screen, width=100))
    assert version.ref == "mood:1"
    assert registry.job(version.manifest.lineage.job or "").state == "succeeded"
    assert "head mood: 100 texts embedded and stored" in screen.getvalue()
    assert "head mood: succeeded" in screen.getvalue()


def test_foreground_raises_the_jobs_own_words(
    home: Path, registry: Registry, head_spec: TrainSpec
) -> None:
    head_spec.data.write_text("text,label\na,x\n,y\n")
    with pytest.raises(TrainingFailed, match="line 3: text is empty"):
        run_foreground(home, "local", head_spec, Console(file=io.StringIO()))


def test_interrupted_foreground_ends_worker_and_job(
    home: Path, registry: Registry, lora_spec: TrainSpec
) -> None:
    endless = lora_spec.model_copy(update={"hyperparameters": {"n_epochs": 1000}})
    code = (
        "import sys; from pathlib import Path;"
        "from rootstock_trainer.foreground import run_foreground;"
        "from rootstock_trainer.spec import TrainSpec;"
        "run_foreground(Path(sys.argv[1]), 'local', TrainSpec.model_validate_json(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(home), endless.model_dump_json()]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    wait_for(lambda: any(j.progress.get("stage") == "training" for j in registry.jobs("local")))
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert b"KeyboardInterrupt" in said
    assert not Path(f"/proc/{child}").exists()
    (job,) = registry.jobs("local")
    assert (job.state, job.error) == ("failed", "interrupted")


def test_importing_the_foreground_does_not_import_torch() -> None:
    code = (
        "import sys, rootstock_trainer.foreground, rootstock_trainer.sidecar;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def wait_for(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_a_paused_job_is_put_down_and_goes_on_when_it_is_resumed(
    registry: Registry, home: Path, head_spec: TrainSpec, claimed: Callable[[TrainSpec], Job]
) -> None:
    job = claimed(head_spec)
    registry.pause_job("local", job.id)
    assert work(registry, home, job) == PUT_DOWN
    assert registry.job(job.id).state == "paused"
    registry.resume_job("local", job.id)
    again = registry.claim_job("the test", 60.0, job.id)
    assert again is not None
    assert work(registry, home, again) == REGISTERED
