"""Training jobs from the command line: the queue is real, and the tests are its worker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

from rootstock_registry import Registry

Command = Callable[..., CompletedProcess[str]]
SPEC = {"method": "lora", "name": "clerk", "base": "tiny", "hyperparameters": {"rank": 4}}


def test_jobs_are_listed_and_shown_with_how_far_they_are(rootstock: Command, home: Path) -> None:
    registry = Registry(home)
    done, running = (registry.submit_job("local", SPEC) for _ in range(2))
    registry.cancel_job("local", done.id)
    held = registry.claim_job("w", 60.0)
    assert held is not None
    progress = {"stage": "training", "done": 3, "total": 8, "loss": 0.25}
    registry.renew_job(held, 60.0, progress)
    registry.checkpoint_job(held, 3, "step-3", {"loss": 0.25})
    listed = rootstock("jobs", "list").stdout
    assert listed.index(running.id) < listed.index(done.id)
    assert "training 3/8 loss 0.250" in listed and "cancelled" in listed
    shown = rootstock("jobs", "show", running.id).stdout
    assert "name: clerk" in shown and "checkpoint at step 3: loss 0.2500" in shown
    facts = json.loads(rootstock("jobs", "show", running.id, "--json").stdout)
    assert (facts["state"], facts["progress"]) == ("running", progress)
    assert facts["checkpoints"] == [{"step": 3, "metrics": {"loss": 0.25}}]


def test_a_job_is_paused_resumed_and_cancelled(rootstock: Command, home: Path) -> None:
    job = Registry(home).submit_job("local", SPEC).id
    for action, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        ran = rootstock("jobs", action, job)
        assert (ran.returncode, ran.stdout.strip()) == (0, f"{job} is {state}")
    again = rootstock("jobs", "pause", job)
    assert again.returncode == 1
    assert "cancelled already and cannot be paused" in again.stderr
    assert rootstock("jobs", "show", "ftjob-x").returncode == 1


def test_events_are_followed_to_the_end_which_is_the_exit_status(
    rootstock: Command, home: Path
) -> None:
    registry = Registry(home)
    job = registry.submit_job("local", SPEC)
    held = registry.claim_job("w", 60.0)
    assert held is not None
    end = threading.Timer(0.7, registry.fail_job, (held, "line 2: label is empty"))
    end.start()
    ran = rootstock("jobs", "events", job.id, "--follow")
    assert ran.returncode == 1
    assert f"job {job.id} failed: line 2: label is empty" in ran.stderr
    lines = ran.stdout.splitlines()
    assert [line.partition(" ")[2] for line in lines] == [
        f"Created fine-tuning job: {job.id}",
        "Fine-tuning job started by w",
        "error: Fine-tuning job failed: line 2: label is empty",
    ]
    assert rootstock("jobs", "events", job.id).returncode == 0
