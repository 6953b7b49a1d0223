"""Queued LoRA jobs on one base run in one worker process, and end one by one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rootstock_registry import Job, Registry
from rootstock_trainer.launch import Worker, claimant
from rootstock_trainer.mates import claim_mates
from rootstock_trainer.outcome import Place
from rootstock_trainer.spec import TrainSpec
from rootstock_trainer.train import train

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
Submit = Callable[..., Job]


@pytest.fixture
def submit(registry: Registry, lora_spec: TrainSpec) -> Submit:
    def one(name: str, tenant: str = "local", method: str = "lora", **values: Any) -> Job:
        own = {"name": name, "method": method, "hyperparameters": {"n_epochs": 2} | values}
        return registry.submit_job(tenant, lora_spec.model_copy(update=own).model_dump(mode="json"))

    return one


def claimed(registry: Registry, most: int = 3) -> list[Job]:
    first = registry.claim_job(claimant(), 60.0, per_tenant=1)
    assert first is not None
    return [first, *claim_mates(registry, first, claimant(), most)]


def wait_for(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_mates_are_queued_low_rank_jobs_of_the_same_tenant_and_base(
    registry: Registry, submit: Submit, head_spec: TrainSpec
) -> None:
    registry.create_tenant("acme")
    first = submit("one")
    registry.submit_job("local", head_spec.model_dump(mode="json"))
    for number, values in enumerate(
        ({"packing": True}, {"bf16": True}, {"rank": "many"}, {"max_seconds": 9.0})
    ):
        submit(f"alone-{number}", **values)
    submit("other-kind", method="dora")
    submit("other-tenant", tenant="acme")
    mates = [submit("two", rank=2), submit("three", method="rslora"), submit("four")]
    submit("too-many")
    assert [job.id for job in claimed(registry)] == [job.id for job in (first, *mates)]


def test_a_job_that_lost_a_worker_goes_alone(
    registry: Registry, home: Path, submit: Submit
) -> None:
    jobs = [submit("one"), submit("two"), submit("three")]
    process = Worker(home, claimed(registry, 1), ONE_THREAD)
    os.kill(process.pid, signal.SIGKILL)
    process.close(registry)
    assert [registry.job(job.id).state for job in jobs] == ["queued"] * 3
    assert [job.id for job in claimed(registry)] == [jobs[0].id]


def test_one_worker_ends_each_of_its_jobs_as_it_ends_alone(
    registry: Registry, home: Path, submit: Submit, tmp_path: Path
) -> None:
    values: list[dict[str, Any]] = [
        {"rank": 4},
        {"n_epochs": 4},
        {"learning_rate": 1e30},
        {"n_epochs": 1000},
        {"n_epochs": 1000},
    ]
    jobs = [submit(f"job-{number}", **each) for number, each in enumerate(values)]
    short, longer, broken, unwanted, paused = (job.id for job in jobs)
    process = Worker(home, claimed(registry, 4), ONE_THREAD)
    wait_for(lambda: registry.job(longer).finished_at is not None)
    registry.cancel_job("local", unwanted)
    registry.pause_job("local", paused)
    assert "Traceback" not in process.close(registry)
    assert registry.job(unwanted).state == "cancelled"
    assert registry.job(paused).state == "paused"
    assert registry.job_checkpoints("local", paused)
    assert "the loss is not finite" in (registry.job(broken).error or "")
    for number, each in ((0, short), (1, longer)):
        job = registry.job(each)
        assert job.version_digest == registry.resolve("local", f"job-{number}:1").digest
        alone = losses_alone(registry, submit(f"alone-{number}", **values[number]), tmp_path)
        assert losses(registry, job) == pytest.approx(alone, abs=1e-4)


def losses(registry: Registry, job: Job) -> list[float]:
    told = registry.job_events("local", job.id)
    return [each.data["train_loss"] for each in told if each.data and "train_loss" in each.data]


def losses_alone(registry: Registry, job: Job, folder: Path) -> list[float]:
    held = registry.claim_job("the test", 60.0, job.id)
    assert held is not None
    found: list[float] = []
    spec = TrainSpec.parse(job.spec)
    train(
        spec,
        registry,
        held,
        lambda now: found.append(now.loss or 0.0) if now.stage == "training" else None,
        Place(folder),
    )
    return found[::-1]
