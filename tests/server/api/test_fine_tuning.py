"""Files and fine-tuning jobs over HTTP: what is refused, whose they are, and how they read.

Nothing is trained here: the queue is real, and the tests claim its jobs themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from rootstock_registry import Lineage

ROWS = b'{"prompt": "a", "completion": "b"}\n' * 3
FILES, JOBS = "/v1/files", "/v1/fine_tuning/jobs"


@pytest.fixture
def settings() -> dict[str, object]:
    return {
        "limits": {
            "max_file_bytes": 4000,
            "max_files_bytes_per_tenant": 6000,
            "training": {"max_waiting_per_tenant": 3},
        }
    }


@pytest.fixture
def publisher(house) -> dict[str, str]:
    return house.key("acme", "publisher")


async def upload(house, headers, name="rows.jsonl", data=ROWS, **fields) -> httpx.Response:
    form = {"purpose": "fine-tune"} | fields
    return await house.http.post(FILES, files={"file": (name, data)}, data=form, headers=headers)


async def create(house, headers, **fields) -> httpx.Response:
    file = (await upload(house, headers)).json()["id"]
    body = {"model": "toy", "training_file": file, "suffix": "clerk"} | fields
    body = {name: value for name, value in body.items() if value is not ...}
    return await house.post(JOBS, body, headers=headers)


async def test_a_file_is_kept_read_listed_and_forgotten(house, publisher) -> None:
    file = (await upload(house, publisher, name="C:/somewhere/../rows.jsonl")).json()
    assert file.pop("created_at") > 1.7e9
    file_id = file.pop("id")
    assert file_id.startswith("file-")
    assert file == {
        "bytes": len(ROWS), "filename": "rows.jsonl", "object": "file", "purpose": "fine-tune",
        "status": "processed", "expires_at": None, "status_details": None,
    }  # fmt: skip
    place = f"{FILES}/{file_id}"
    assert (await house.http.get(place, headers=publisher)).json()["id"] == file_id
    assert (await house.http.get(f"{place}/content", headers=publisher)).content == ROWS
    assert len((await house.http.get(FILES, headers=publisher)).json()["data"]) == 1
    gone = await house.http.delete(place, headers=publisher)
    assert gone.json() == {"id": file_id, "object": "file", "deleted": True}
    assert (await house.http.get(place, headers=publisher)).status_code == 404
    assert (await house.http.get(FILES, headers=publisher)).json()["data"] == []


BAD_UPLOADS = [
    ({"purpose": "assistants"}, "purpose: must be `fine-tune`"),
    ({"expires_after": "1"}, "expires_after: is not supported here"),
    ({"name": "rows.pkl"}, "file: its name must end in .jsonl, .csv, .parquet"),
    ({"data": b""}, "file: it is empty"),
    ({"data": b'{"a": 1}\n[2]\n{"a"\n'}, "line 2 is not a JSON object; line 3 is not valid"),
    ({"data": b"[" * 3000}, "file: line 1 is not valid JSON"),
    ({"data": b'{"a": 1}\n"\xff"\n'}, "file: line 2 is not UTF-8"),
    ({"name": "rows.parquet"}, "file: it is not a Parquet file"),
]


async def test_what_cannot_be_trained_on_is_refused_by_its_field(house, publisher) -> None:
    for changes, says in BAD_UPLOADS:
        refused = await upload(house, publisher, **changes)
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert says in error["message"]
        assert error["param"] == error["message"].partition(":")[0]
    assert house.registry.files("acme") == []


async def test_an_upload_too_large_and_a_tenant_with_too_much_are_refused(house, publisher) -> None:
    large = await upload(house, publisher, data=b'{"a": 1}\n' * 1000)
    assert large.status_code == 413
    assert large.json()["error"]["param"] == "file"
    for _ in range(2):
        assert (await upload(house, publisher, data=b'{"a": 1}\n' * 300)).status_code == 200
    full = await upload(house, publisher, data=b'{"a": 1}\n' * 100)
    assert full.status_code == 400
    assert "delete some first" in full.json()["error"]["message"]


async def test_a_form_without_a_file_and_a_body_that_is_no_form_are_refused(
    house, publisher
) -> None:
    bare = await house.http.post(FILES, data={"purpose": "fine-tune"}, headers=publisher)
    assert bare.status_code == 400 and bare.json()["error"]["param"] == "file"
    text = await house.post(FILES, {"purpose": "fine-tune"}, headers=publisher)
    assert text.status_code == 400
    broken = await house.http.post(
        FILES, content=b"--x\r\nbroken",
        headers=publisher | {"content-type": "multipart/form-data; boundary=x"},
    )  # fmt: skip
    assert broken.status_code == 400


async def test_a_job_reads_as_openai_writes_it(house, publisher) -> None:
    method = {"type": "lora", "lora": {"hyperparameters": {"rank": 4, "n_epochs": 2}}}
    made = await create(
        house, publisher, method=method, seed=7, priority=2,
        metadata={"promote": "prod", "require": "accuracy>=0.9, forgetting<=1"},
    )  # fmt: skip
    assert made.status_code == 200, made.text
    job = made.json()
    (row,) = house.registry.jobs("acme")
    assert job.pop("created_at") > 1.7e9
    assert job == {
        "id": row.id, "object": "fine_tuning.job", "finished_at": None, "estimated_finish": None,
        "model": "toy", "fine_tuned_model": None, "organization_id": "acme", "status": "queued",
        "hyperparameters": {"n_epochs": 2, "batch_size": 8, "learning_rate_multiplier": 1.0},
        "method": method, "training_file": row.spec["data"], "validation_file": None,
        "result_files": [], "trained_tokens": None, "seed": 7, "error": None,
        "integrations": None, "suffix": "clerk", "priority": 2,
        "metadata": {"promote": "prod", "require": "accuracy>=0.9, forgetting<=1"},
    }  # fmt: skip
    request = row.spec.pop("request")
    assert request["training_file"] == row.spec["data"]
    assert row.spec == {
        "method": "lora", "base": "toy", "base_path": str(house.handle.bases["toy"].path),
        "data": request["training_file"], "name": "clerk", "promote": "prod", "seed": 7,
        "require": ["accuracy>=0.9", "forgetting<=1"],
        "hyperparameters": {"rank": 4, "n_epochs": 2},
    }  # fmt: skip


async def test_supervised_means_lora_and_the_older_place_of_hyperparameters_is_read(
    house, publisher
) -> None:
    older = await create(
        house, publisher, hyperparameters={"n_epochs": 5, "batch_size": "auto"}, suffix=...
    )
    assert older.json()["method"]["type"] == "supervised"
    assert older.json()["hyperparameters"]["n_epochs"] == 5
    (row,) = house.registry.jobs("acme")
    assert (row.spec["method"], row.spec["hyperparameters"]) == ("lora", {"n_epochs": 5})
    assert row.spec["name"].startswith("toy-")


BAD_JOBS: list[tuple[dict[str, Any], str, str]] = [
    ({"model": "nobody"}, "model", "the base `nobody` is not served here"),
    ({"model": "own"}, "model", "jobs train on bases: reader, toy"),
    ({"training_file": "file-abc"}, "training_file", "file 'file-abc' does not exist"),
    ({"training_file": "../x"}, "training_file", "pattern"),
    ({"validation_file": "file-abc"}, "validation_file", "does not exist"),
    ({"suffix": "No Good"}, "suffix", "is not a valid name"),
    ({"metadata": {"promote": "No Good"}}, "metadata.promote", "is not a valid name"),
    ({"metadata": {"promote": "prod", "require": "accuracy"}}, "metadata.require", "not a gate"),
    ({"metadata": {"promote": "prod", "require": "signature"}}, "metadata.require", "sign it"),
    ({"metadata": {"require": "accuracy>=0.9"}}, "metadata.require", "needs metadata.promote"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "at most 16"),
    ({"integrations": [{"type": "wandb"}]}, "integrations", "is not supported yet"),
    ({"method": {"type": "dpo"}}, "method", "expected tags"),
    (
        {"method": {"type": "lora", "lora": {"hyperparameters": {"rank": 0}}}},
        "method.lora.hyperparameters.rank",
        "greater than or equal to 1",
    ),
    (
        {"method": {"type": "head", "head": {"hyperparameters": {"rank": 8}}}},
        "method.head.hyperparameters.rank",
        "is not a field",
    ),
    (
        {"method": {"type": "head"}, "hyperparameters": {"n_epochs": 0}},
        "hyperparameters.n_epochs",
        "greater than or equal to 1",
    ),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"priority": 101}, "priority", "less than or equal to 100"),
    ({"wings": 2}, "wings", "is not a field"),
]


async def test_a_job_that_cannot_be_is_refused_by_its_field(house, publisher) -> None:
    file = (await upload(house, publisher)).json()["id"]
    for changes, param, says in BAD_JOBS:
        body = {"model": "toy", "training_file": file, "suffix": "clerk"} | changes
        refused = await house.post(JOBS, body, headers=publisher)
        assert refused.status_code in (400, 404), refused.text
        error = refused.json()["error"]
        assert error["param"] == param
        assert says in error["message"]
    assert house.registry.jobs("acme") == []


async def test_fifty_submissions_with_one_key_are_one_job(house, publisher) -> None:
    file = (await upload(house, publisher)).json()["id"]
    headers = publisher | {"idempotency-key": "again"}

    async def submit(**changes: Any) -> httpx.Response:
        body = {"model": "toy", "training_file": file} | changes
        return await house.post(JOBS, body, headers=headers)

    answers = await asyncio.gather(*(submit() for _ in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(house.registry.jobs("acme")) == 1
    other = await submit(seed=3)
    assert other.status_code == 400
    assert "idempotency key" in other.json()["error"]["message"]


async def test_a_tenant_may_have_so_many_jobs_wait(house, publisher) -> None:
    for _ in range(3):
        assert (await create(house, publisher)).status_code == 200
    refused = await create(house, publisher)
    assert refused.status_code == 400
    assert "3 jobs of this tenant wait already" in refused.json()["error"]["message"]


async def test_a_job_is_paused_resumed_and_cancelled(house, publisher) -> None:
    job = (await create(house, publisher)).json()["id"]

    async def ask(action: str) -> httpx.Response:
        return await house.http.post(f"{JOBS}/{job}/{action}", headers=publisher)

    for action, status in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        answer = await ask(action)
        assert (answer.status_code, answer.json()["status"]) == (200, status)
    assert answer.json()["finished_at"] is not None
    refused = await ask("resume")
    assert refused.status_code == 400
    assert "cancelled already and cannot be resumed" in refused.json()["error"]["message"]


async def test_a_job_says_how_far_it_is_and_what_came_of_it(house, publisher) -> None:
    job_id = (await create(house, publisher)).json()["id"]
    registry, place = house.registry, f"{JOBS}/{job_id}"

    async def now() -> dict[str, Any]:
        return (await house.http.get(place, headers=publisher)).json()

    held = registry.claim_job("w", 60.0)
    assert (await now())["status"] == "validating_files"
    registry.renew_job(held, 60.0, {"stage": "training", "results": ["file-1"]})
    assert (await now())["status"] == "running"
    registry.checkpoint_job(held, 3, "step-3", {"loss": 0.5, "valid_loss": 0.75})
    registry.tell_job(held, "Step 3/4", {"step": 3, "train_loss": 0.5})
    (checkpoint,) = (await house.http.get(f"{place}/checkpoints", headers=publisher)).json()["data"]
    assert checkpoint["object"] == "fine_tuning.job.checkpoint"
    assert checkpoint["fine_tuning_job_id"] == job_id
    assert (checkpoint["step_number"], checkpoint["metrics"]["step"]) == (3, 3)
    assert checkpoint["metrics"]["full_valid_loss"] == 0.75
    base, part = registry.base("toy"), registry.resolve("acme", "own")
    from rootstock_adapters.lora.spec import LoraSpec
    from rootstock_registry import NewPart

    data = registry.blobs.get(part.manifest.parts[0].blob)
    spec = LoraSpec.model_validate(part.manifest.parts[0].config)
    version = registry.publish(
        "acme", "clerk", base, [NewPart(spec, data)], lineage=Lineage(method="lora"), job=held
    )
    done = await now()
    assert (done["status"], done["fine_tuned_model"]) == ("succeeded", version.ref)
    assert done["result_files"] == ["file-1"]
    events = (await house.http.get(f"{place}/events", headers=publisher)).json()
    assert events["object"] == "list" and events["has_more"] is False
    assert events["data"][0]["message"] == "Fine-tuning job succeeded. New model: clerk:1"
    assert [event["type"] for event in events["data"]].count("metrics") == 1


async def test_a_failed_job_says_why(house, publisher) -> None:
    job_id = (await create(house, publisher)).json()["id"]
    house.registry.fail_job(house.registry.claim_job("w", 60.0), "line 2: label is empty")
    job = (await house.http.get(f"{JOBS}/{job_id}", headers=publisher)).json()
    assert job["status"] == "failed"
    assert job["error"] == {
        "code": "job_failed", "message": "line 2: label is empty", "param": None,
    }  # fmt: skip


async def test_jobs_are_listed_in_pages_and_by_metadata(house, publisher) -> None:
    ids = [
        (await create(house, publisher, metadata={"n": str(n % 2)})).json()["id"] for n in range(3)
    ][::-1]

    async def listed(**query: Any) -> dict[str, Any]:
        return (await house.http.get(JOBS, params=query, headers=publisher)).json()

    first = await listed(limit=2)
    assert [job["id"] for job in first["data"]] == ids[:2]
    assert (first["has_more"], first["last_id"]) == (True, ids[1])
    rest = await listed(limit=2, after=ids[1])
    assert [job["id"] for job in rest["data"]] == ids[2:] and rest["has_more"] is False
    even = await listed(**{"metadata[n]": "0"})
    assert [job["id"] for job in even["data"]] == [ids[0], ids[2]]
    wrong = await house.http.get(JOBS, params={"after": "ftjob-x"}, headers=publisher)
    assert wrong.status_code == 404


async def test_files_and_jobs_need_a_publishers_key(house) -> None:
    caller = house.key("acme", "caller")
    for method, path in (
        ("GET", FILES), ("POST", FILES), ("DELETE", f"{FILES}/file-1"), ("GET", JOBS),
        ("GET", f"{JOBS}/x"), ("POST", f"{JOBS}/x/cancel"), ("GET", f"{JOBS}/x/events"),
    ):  # fmt: skip
        refused = await house.http.request(method, path, headers=caller)
        assert refused.status_code == 403, path
    body = {"model": "toy", "training_file": "file-abc"}
    assert (await house.post(JOBS, body, headers=caller)).status_code == 403


async def test_what_is_another_tenants_reads_like_what_does_not_exist(house, publisher) -> None:
    file = (await upload(house, publisher)).json()["id"]
    job = (await create(house, publisher)).json()["id"]
    other = house.key("local", "admin")
    for method, foreign in (
        ("GET", f"{FILES}/{file}"), ("GET", f"{FILES}/{file}/content"),
        ("DELETE", f"{FILES}/{file}"), ("GET", f"{JOBS}/{job}"), ("POST", f"{JOBS}/{job}/cancel"),
        ("POST", f"{JOBS}/{job}/pause"), ("POST", f"{JOBS}/{job}/resume"),
        ("GET", f"{JOBS}/{job}/events"), ("GET", f"{JOBS}/{job}/checkpoints"),
    ):  # fmt: skip
        answers = []
        for path in (foreign, foreign.replace(file, "file-0").replace(job, "ftjob-0")):
            answer = await house.http.request(method, path, headers=other)
            text = answer.text.replace(file, "ID").replace(job, "ID")
            answers.append(
                (answer.status_code, text.replace("file-0", "ID").replace("ftjob-0", "ID"))
            )
        assert answers[0] == answers[1], foreign
        assert answers[0][0] == 404
    body = {"model": "toy", "training_file": file}
    assert (await house.post(JOBS, body, headers=other)).status_code == 404
    assert house.registry.tenant_job("acme", job).state == "queued"


@pytest.fixture
def sdk(house, publisher) -> Iterator[openai.AsyncOpenAI]:
    secret = publisher["authorization"].removeprefix("Bearer ")
    yield openai.AsyncOpenAI(base_url=f"{house.url}/v1", api_key=secret, max_retries=0)


async def test_the_sdk_pages_through_jobs_events_and_files(house, sdk, publisher) -> None:
    for _ in range(3):
        assert (await create(house, publisher)).status_code == 200
    jobs = [job async for job in sdk.fine_tuning.jobs.list(limit=1)]
    assert [job.id for job in jobs] == [job.id for job in house.registry.jobs("acme")]
    for _ in range(4):
        house.registry.pause_job("acme", jobs[0].id)
        house.registry.resume_job("acme", jobs[0].id)
    events = [event async for event in sdk.fine_tuning.jobs.list_events(jobs[0].id, limit=2)]
    assert len(events) == 9 and len({event.id for event in events}) == 9
    files = [file async for file in sdk.files.list(limit=2, purpose="fine-tune")]
    assert len(files) == 3
    await sdk.close()
