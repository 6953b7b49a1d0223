"""Comparisons over HTTP: the jobs they queue, what is refused, whose they are, how they read.

Nothing is trained here: the queue is real, and the tests end its jobs themselves.
"""

from __future__ import annotations

from typing import Any

import httpx
import pytest

ROWS = b'{"prompt": "a", "completion": "b"}\n' * 3
PLACE = "/v1/comparisons"


@pytest.fixture
def settings() -> dict[str, object]:
    return {"limits": {"training": {"max_waiting_per_tenant": 6}}}


@pytest.fixture
def publisher(house) -> dict[str, str]:
    return house.key("acme", "publisher")


async def create(house, headers, **fields) -> httpx.Response:
    form = {"purpose": "fine-tune"}
    upload = {"file": ("rows.jsonl", ROWS)}
    file = await house.http.post("/v1/files", files=upload, data=form, headers=headers)
    body = {
        "model": "toy", "training_file": file.json()["id"], "methods": ["few-shot", "lora:rank=4"],
        "seeds": 2, "suffix": "clerk",
    }  # fmt: skip
    return await house.post(PLACE, body | fields, headers=headers)


async def test_a_job_is_queued_for_each_variant_and_seed(house, publisher) -> None:
    made = (await create(house, publisher)).json()
    assert made["status"] == "running" and made["result"] is None
    assert made["methods"] == ["few-shot", "lora:rank=4"] and made["seeds"] == 2
    jobs = [house.registry.tenant_job("acme", job) for job in made["jobs"]]
    assert [(job.spec["name"], job.spec["seed"]) for job in jobs] == [
        ("clerk-few-shot", 0), ("clerk-lora-rank-4", 0),
        ("clerk-few-shot", 1), ("clerk-lora-rank-4", 1),
    ]  # fmt: skip
    assert jobs[1].spec["method"] == "lora" and jobs[1].spec["hyperparameters"] == {"rank": 4}
    listed = (await house.http.get("/v1/fine_tuning/jobs", headers=publisher)).json()
    assert {job["id"] for job in listed["data"]} == set(made["jobs"])


async def test_the_table_is_shown_once_it_is_there(house, publisher) -> None:
    made = (await create(house, publisher)).json()
    row = house.registry.comparison("acme", made["id"])
    spread = {"mean": 40.0, "low": 39.0, "high": 41.0}
    entry = {"label": "lora:rank=4", "state": "measured", "quality": spread}
    table: dict[str, Any] = {
        "metric": "chrf", "budget": row.spec["budget"], "seeds": 2, "train_rows": 2,
        "held_out_rows": 1, "entries": [entry],
        "recommendation": {"choice": "lora:rank=4", "text": "Take it.", "reasons": []},
    }  # fmt: skip
    house.registry.finish_comparison(row, table, failed=False)
    shown = (await house.http.get(f"{PLACE}/{made['id']}", headers=publisher)).json()
    assert shown["status"] == "succeeded" and shown["finished_at"] >= shown["created_at"]
    assert shown["result"]["entries"][0]["quality"] == spread
    assert shown["result"]["recommendation"]["choice"] == "lora:rank=4"


async def test_what_cannot_be_compared_is_refused_by_its_field_and_queues_nothing(
    house, publisher
) -> None:
    for change, status, says in (
        ({"methods": ["lorra"]}, 400, "there is no method 'lorra'"),
        ({"methods": ["lora:rank=0"]}, 400, "hyperparameters.rank"),
        ({"model": "nobody"}, 404, "model: the base `nobody` is not served here"),
        ({"training_file": "file-0000"}, 404, "file 'file-0000' does not exist"),
        ({"suffix": "No Name"}, 400, "suffix"),
        ({"seeds": 10}, 400, "methods: 20 jobs, and a tenant may have 6 waiting"),
        ({"beauty": 1}, 400, "beauty"),
    ):
        refused = await create(house, publisher, **change)
        assert refused.status_code == status, refused.text
        assert says in refused.json()["error"]["message"]
    assert house.registry.jobs("acme") == []


async def test_a_queue_without_room_takes_all_jobs_or_none(house, publisher) -> None:
    assert (await create(house, publisher)).status_code == 200
    refused = await create(house, publisher)
    assert refused.status_code == 400
    waiting = [job for job in house.registry.jobs("acme") if job.state == "queued"]
    assert len(waiting) == 4


async def test_comparisons_are_their_tenants_and_come_in_pages(house, publisher) -> None:
    ids = [(await create(house, publisher, seeds=1)).json()["id"] for _ in range(3)]
    first = (await house.http.get(f"{PLACE}?limit=2", headers=publisher)).json()
    assert [each["id"] for each in first["data"]] == ids[:0:-1] and first["has_more"]
    rest = await house.http.get(f"{PLACE}?after={first['last_id']}", headers=publisher)
    assert [each["id"] for each in rest.json()["data"]] == ids[:1]
    assert not rest.json()["has_more"]
    stranger = house.key("local", "publisher")
    assert (await house.http.get(f"{PLACE}/{ids[0]}", headers=stranger)).status_code == 404
    assert (await house.http.get(PLACE, headers=stranger)).json()["data"] == []
    caller = house.key("acme", "caller")
    assert (await house.http.get(PLACE, headers=caller)).status_code == 403
