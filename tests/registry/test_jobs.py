"""Jobs: each is worked on by one worker at a time, and a late one can change nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Job, Lineage, NewPart, Registry, errors
from rootstock_registry.jobs import MAX_CLAIMS

Head = Callable[[float], NewPart]


@pytest.fixture
def expire(registry: Registry) -> Callable[[Job], None]:
    """Let a job's lease run out now, as if its worker had been silent for long."""

    def now(job: Job) -> None:
        registry.renew_job(job, -1.0, {})

    return now


def test_a_job_is_queued_claimed_reported_and_finished(
    registry: Registry, card: BaseCard, head: Head, lineage: Lineage
) -> None:
    queued = registry.submit_job("local", {"method": "head", "seed": 7})
    assert (queued.state, queued.fence, queued.spec) == ("queued", 0, {"method": "head", "seed": 7})
    job = registry.claim_job("worker-1", 30.0)
    assert job is not None and job.id == queued.id
    assert (job.state, job.owner, job.fence) == ("running", "worker-1", 1)
    registry.renew_job(job, 30.0, {"step": 5, "of": 10})
    assert registry.job(job.id).progress == {"step": 5, "of": 10}
    version = registry.publish("local", "triage", card, [head(1.0)], lineage=lineage)
    registry.finish_job(job, version.digest)
    done = registry.job(job.id)
    assert (done.state, done.version_digest, done.error) == ("succeeded", version.digest, None)
    assert done.finished_at is not None and done.finished_at >= done.created_at
    assert registry.claim_job("worker-2", 30.0) is None


def test_a_failed_job_says_why_and_is_not_tried_again(registry: Registry) -> None:
    registry.submit_job("local", {})
    job = registry.claim_job("w", 30.0)
    assert job is not None
    registry.fail_job(job, "loss is not finite")
    assert registry.job(job.id).error == "loss is not finite"
    assert registry.claim_job("w", 30.0) is None


def test_jobs_are_claimed_in_order_and_listed_newest_first(registry: Registry) -> None:
    ids = [registry.submit_job("local", {"n": n}).id for n in range(3)]
    claimed = [registry.claim_job("w", 30.0) for _ in range(3)]
    assert [job.id for job in claimed if job] == ids
    assert [job.id for job in registry.jobs("local")] == ids[::-1]


def test_a_named_job_is_claimed_alone(registry: Registry) -> None:
    registry.submit_job("local", {})
    wanted = registry.submit_job("local", {})
    job = registry.claim_job("w", 30.0, wanted.id)
    assert job is not None and job.id == wanted.id
    assert registry.claim_job("w", 30.0, wanted.id) is None


def test_ten_threads_claim_each_job_once(
    opened: Callable[[], Registry], registry: Registry
) -> None:
    ids = {registry.submit_job("local", {}).id for _ in range(30)}
    others = [opened() for _ in range(2)]

    def work(number: int) -> list[str]:
        mine = []
        while job := others[number % 2].claim_job(f"w{number}", 30.0):
            mine.append(job.id)
        return mine

    with ThreadPoolExecutor(10) as pool:
        claimed = [job for jobs in pool.map(work, range(10)) for job in jobs]
    assert sorted(claimed) == sorted(ids)


def test_a_job_whose_lease_ran_out_is_taken_over_with_a_higher_fence(registry: Registry) -> None:
    registry.submit_job("local", {})
    first = registry.claim_job("w1", 0.05)
    assert registry.claim_job("w2", 30.0) is None
    time.sleep(0.1)
    second = registry.claim_job("w2", 30.0)
    assert first is not None and second is not None
    assert (second.id, second.owner, second.fence) == (first.id, "w2", 2)


def test_a_renewed_lease_is_not_taken_over(registry: Registry) -> None:
    registry.submit_job("local", {})
    job = registry.claim_job("w1", 0.05)
    assert job is not None
    registry.renew_job(job, 30.0, {})
    time.sleep(0.1)
    assert registry.claim_job("w2", 30.0) is None


def test_a_late_worker_registers_nothing(
    registry: Registry,
    card: BaseCard,
    head: Head,
    lineage: Lineage,
    expire: Callable[[Job], None],
) -> None:
    registry.submit_job("local", {})
    late = registry.claim_job("late", 30.0)
    assert late is not None
    expire(late)
    current = registry.claim_job("current", 30.0)
    assert current is not None
    with pytest.raises(errors.Conflict, match="no longer held by late"):
        registry.publish(
            "local", "triage", card, [head(1.0)], lineage=lineage, promote="prod", job=late
        )
    with pytest.raises(errors.Conflict):
        registry.renew_job(late, 30.0, {"step": 1})
    with pytest.raises(errors.Conflict):
        registry.fail_job(late, "I am late")
    assert registry.adapters("local") == []
    version = registry.publish(
        "local", "triage", card, [head(2.0)], lineage=lineage, promote="prod", job=current
    )
    with pytest.raises(errors.Conflict):
        registry.finish_job(late, version.digest)
    assert registry.job(late.id).version_digest == version.digest


def test_publishing_for_a_job_finishes_it_in_the_same_transaction(
    registry: Registry, card: BaseCard, head: Head, lineage: Lineage
) -> None:
    registry.submit_job("local", {})
    job = registry.claim_job("w", 30.0)
    assert job is not None
    version = registry.publish("local", "triage", card, [head(1.0)], lineage=lineage, job=job)
    assert registry.job(job.id).state == "succeeded"
    registry.finish_job(job, version.digest)
    with pytest.raises(errors.Conflict):
        registry.renew_job(job, 30.0, {})


def test_a_job_ends_only_in_a_version_of_its_tenant(
    registry: Registry, card: BaseCard, head: Head, lineage: Lineage
) -> None:
    registry.create_tenant("acme")
    registry.submit_job("acme", {})
    job = registry.claim_job("w", 30.0)
    assert job is not None
    theirs = registry.publish("local", "triage", card, [head(1.0)], lineage=lineage)
    for digest in (theirs.digest, "sha256:" + "0" * 64):
        with pytest.raises(errors.NotFound, match="no version"):
            registry.finish_job(job, digest)
    assert registry.job(job.id).state == "running"


def test_a_job_that_kills_its_workers_is_given_up(
    registry: Registry, expire: Callable[[Job], None]
) -> None:
    submitted = registry.submit_job("local", {})
    for _ in range(MAX_CLAIMS):
        job = registry.claim_job("w", 30.0)
        assert job is not None
        expire(job)
    assert registry.claim_job("w", 30.0) is None
    given_up = registry.job(submitted.id)
    assert given_up.state == "failed"
    assert given_up.error is not None and "3 times" in given_up.error


def test_unknown_jobs_and_tenants_are_not_found(registry: Registry) -> None:
    with pytest.raises(errors.NotFound, match="job 'job_x'"):
        registry.job("job_x")
    with pytest.raises(errors.NotFound, match="tenant 'nobody'"):
        registry.submit_job("nobody", {})


def test_what_has_no_json_form_is_refused(registry: Registry) -> None:
    with pytest.raises(errors.InvalidArtifact, match="spec"):
        registry.submit_job("local", {"loss": float("nan")})
