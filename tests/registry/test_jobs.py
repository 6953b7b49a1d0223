"""Jobs: each is worked on by one worker at a time, and a late one can change nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Job, Lineage, NewPart, Registry, errors
from rootstock_registry.jobs import MAX_DEATHS

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
    first = registry.claim_job("w1", 30.0)
    assert first is not None
    assert registry.claim_job("w2", 30.0) is None
    registry.renew_job(first, 0.05, {})
    time.sleep(0.1)
    second = registry.claim_job("w2", 30.0)
    assert second is not None
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
    for _ in range(MAX_DEATHS):
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


def test_fifty_submissions_with_one_key_are_one_job_and_one_version(
    opened: Callable[[], Registry], registry: Registry, card: BaseCard, head: Head, lineage: Lineage
) -> None:
    others = [opened() for _ in range(4)]
    spec = {"method": "head", "seed": 7}

    def submit(number: int) -> str:
        return others[number % 4].submit_job("local", spec, idempotency_key="once").id

    with ThreadPoolExecutor(20) as pool:
        ids = set(pool.map(submit, range(50)))
    assert ids == {job.id for job in registry.jobs("local")}
    assert len(ids) == 1
    while (job := registry.claim_job("w", 30.0)) is not None:
        registry.publish("local", "triage", card, [head(1.0)], lineage=lineage, job=job)
    assert len(registry.versions("local", "triage")) == 1
    assert registry.submit_job("local", spec, idempotency_key="once").state == "succeeded"


def test_a_key_belongs_to_its_tenant_and_to_its_spec(registry: Registry) -> None:
    registry.create_tenant("acme")
    mine = registry.submit_job("local", {"n": 1}, idempotency_key="k")
    theirs = registry.submit_job("acme", {"n": 1}, idempotency_key="k")
    assert mine.id != theirs.id
    with pytest.raises(errors.Conflict, match=f"used for another job .{mine.id}"):
        registry.submit_job("local", {"n": 2}, idempotency_key="k")
    with pytest.raises(errors.InvalidName, match="1 to 255 characters"):
        registry.submit_job("local", {}, idempotency_key="k" * 256)


def test_priority_comes_before_age(registry: Registry) -> None:
    for priority in (0, 5, -5, 5):
        registry.submit_job("local", {}, priority=priority)
    claimed = [registry.claim_job("w", 30.0) for _ in range(4)]
    assert [job.priority for job in claimed if job] == [5, 5, 0, -5]
    assert claimed[0] and claimed[1] and claimed[0].created_at < claimed[1].created_at
    with pytest.raises(errors.InvalidName, match="priority 101"):
        registry.submit_job("local", {}, priority=101)


def test_a_tenant_with_its_share_of_running_jobs_waits_and_others_do_not(
    registry: Registry,
) -> None:
    registry.create_tenant("acme")
    for tenant in ("local", "local", "acme"):
        registry.submit_job(tenant, {})
    tenants = []
    while job := registry.claim_job("w", 30.0, per_tenant=1):
        tenants.append(job.tenant)
    assert tenants == ["local", "acme"]


def test_more_waiting_jobs_than_a_tenant_may_have_are_refused(registry: Registry) -> None:
    for _ in range(2):
        registry.submit_job("local", {}, max_waiting=2)
    with pytest.raises(errors.Conflict, match="2 jobs of this tenant wait already"):
        registry.submit_job("local", {}, max_waiting=2)
    assert registry.claim_job("w", 30.0) is not None
    registry.submit_job("local", {}, max_waiting=2)


def test_a_cancelled_job_is_ended_at_once_and_its_worker_registers_nothing(
    registry: Registry, card: BaseCard, head: Head, lineage: Lineage
) -> None:
    registry.submit_job("local", {})
    job = registry.claim_job("w", 30.0)
    assert job is not None
    assert registry.cancel_job("local", job.id).state == "cancelled"
    assert registry.cancel_job("local", job.id).state == "cancelled"
    with pytest.raises(errors.Conflict, match="it is cancelled"):
        registry.renew_job(job, 30.0, {})
    with pytest.raises(errors.Conflict):
        registry.publish("local", "triage", card, [head(1.0)], lineage=lineage, job=job)
    assert registry.adapters("local") == []
    assert registry.claim_job("w", 30.0) is None
    with pytest.raises(errors.Conflict, match="cancelled already and cannot be resumed"):
        registry.resume_job("local", job.id)


def test_a_running_job_is_paused_by_its_worker_and_resumed_into_the_queue(
    registry: Registry,
) -> None:
    registry.submit_job("local", {})
    job = registry.claim_job("w", 30.0)
    assert job is not None
    assert registry.pause_job("local", job.id).state == "running"
    assert registry.renew_job(job, 30.0, {}).requested == "pause"
    registry.release_job(job, paused=True)
    assert registry.claim_job("w", 30.0) is None
    assert registry.pause_job("local", job.id).state == "paused"
    assert registry.resume_job("local", job.id).state == "queued"
    again = registry.claim_job("w", 30.0)
    assert again is not None and (again.fence, again.requested) == (2, None)


def test_a_waiting_job_is_paused_at_once_and_a_request_to_pause_can_be_taken_back(
    registry: Registry,
) -> None:
    waiting = registry.submit_job("local", {})
    assert registry.pause_job("local", waiting.id).state == "paused"
    registry.resume_job("local", waiting.id)
    job = registry.claim_job("w", 30.0)
    assert job is not None
    registry.pause_job("local", job.id)
    assert registry.resume_job("local", job.id).state == "running"
    assert registry.renew_job(job, 30.0, {}).requested is None


def test_a_dead_workers_job_is_tried_again_and_a_checkpoint_gives_it_new_lives(
    registry: Registry,
) -> None:
    registry.submit_job("local", {})
    for step in range(2 * MAX_DEATHS):
        job = registry.claim_job("w", 30.0)
        assert job is not None
        registry.checkpoint_job(job, step, f"step-{step}", {"loss": 1.0})
        assert registry.lose_job(job, "signal 9").state == "queued"
    for _ in range(MAX_DEATHS - 1):
        job = registry.claim_job("w", 30.0)
        assert job is not None
        job = registry.lose_job(job, "signal 9")
    assert job.state == "failed"
    assert job.error is not None and "signal 9 (3 times" in job.error


def test_a_job_tells_its_story_newest_first_in_pages(registry: Registry) -> None:
    submitted = registry.submit_job("local", {})
    job = registry.claim_job("w1", 30.0)
    assert job is not None
    registry.tell_job(job, "Step 1/2", {"step": 1, "train_loss": 0.5})
    registry.fail_job(job, "loss is not finite")
    events = registry.job_events("local", submitted.id)
    assert [event.message.split(":")[0] for event in events[::-1]] == [
        "Created fine-tuning job",
        "Fine-tuning job started by w1",
        "Step 1/2",
        "Fine-tuning job failed",
    ]
    assert events[1].data == {"step": 1, "train_loss": 0.5}
    assert events[0].level == "error"
    first = registry.job_events("local", submitted.id, limit=3)
    rest = registry.job_events("local", submitted.id, after=first[-1].id)
    assert [*first, *rest] == events
    for wrong in ("ftevent-x-1", f"{events[0].id}0000000000", "x"):
        with pytest.raises(errors.NotFound, match="event"):
            registry.job_events("local", submitted.id, after=wrong)


def test_the_last_checkpoints_of_a_job_are_kept(registry: Registry) -> None:
    submitted = registry.submit_job("local", {})
    job = registry.claim_job("w", 30.0)
    assert job is not None
    for step in (1, 2, 3, 4, 4):
        registry.checkpoint_job(job, step, f"step-{step}", {"loss": 1 / step})
    kept = registry.job_checkpoints("local", submitted.id)
    assert [(each.step, each.folder) for each in kept] == [
        (4, "step-4"), (3, "step-3"), (2, "step-2")
    ]  # fmt: skip
    assert kept[0].metrics == {"loss": 0.25}
    assert registry.job_checkpoints("local", submitted.id, kept[0].id, 1) == [kept[1]]


def test_jobs_and_what_belongs_to_them_are_unknown_to_other_tenants(registry: Registry) -> None:
    registry.create_tenant("acme")
    job = registry.submit_job("local", {})
    file = registry.add_file("local", "rows.jsonl", "fine-tune", b"{}")
    for act in (
        registry.tenant_job,
        registry.cancel_job,
        registry.pause_job,
        registry.resume_job,
        registry.job_events,
        registry.job_checkpoints,
        registry.jobs,
    ):
        with pytest.raises(errors.NotFound, match=f"job '{job.id}' does not exist"):
            act("acme", job.id)
    for look in (registry.file, registry.delete_file):
        with pytest.raises(errors.NotFound, match=f"file '{file.id}' does not exist"):
            look("acme", file.id)
    assert registry.jobs("acme") == [] and registry.files("acme") == []


def test_jobs_are_listed_in_pages(registry: Registry) -> None:
    ids = [registry.submit_job("local", {}).id for _ in range(5)][::-1]
    first = [job.id for job in registry.jobs("local", limit=2)]
    rest = [job.id for job in registry.jobs("local", after=first[-1])]
    assert first + rest == ids


def test_files_are_kept_listed_in_pages_and_forgotten(registry: Registry) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    files = [
        registry.add_file("local", f"{n}.jsonl", "fine-tune", b"{}\n" * n) for n in range(1, 5)
    ]
    assert registry.blobs.get(files[1].digest) == b"{}\n{}\n"
    assert files[1].bytes == 6 and files[1].created_at > before
    ids = [file.id for file in registry.files("local", order="asc")]
    assert ids == [file.id for file in files]
    assert [file.id for file in registry.files("local", after=ids[2])] == [ids[1], ids[0]]
    assert [f.id for f in registry.files("local", after=ids[2], order="asc")] == [ids[3]]
    assert registry.files("local", purpose="fine-tune-results") == []
    registry.delete_file("local", ids[0])
    with pytest.raises(errors.NotFound):
        registry.file("local", ids[0])
    with pytest.raises(errors.Conflict, match="would be over 20"):
        registry.add_file("local", "more.jsonl", "fine-tune", b"x", room=20)
    with pytest.raises(errors.InvalidName, match="filename"):
        registry.add_file("local", "", "fine-tune", b"x")
