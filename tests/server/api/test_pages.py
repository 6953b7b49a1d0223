"""The pages of training jobs: whose key opens them, what they show, and what they never run.

Nothing is trained here: the queue is real, and the tests claim its jobs themselves. What the
script does in a browser is tested in tests/e2e.
"""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

ROWS = b'{"prompt": "a", "completion": "b"}\n' * 3
JOBS = "/v1/fine_tuning/jobs"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
TABLE = {
    "metric": "chrf", "budget": "", "seeds": 1, "train_rows": 2, "held_out_rows": 1, "entries": [],
    "recommendation": {"choice": "few-shot", "text": "Take <b>it</b>.", "reasons": []},
}  # fmt: skip


@pytest.fixture
def settings() -> dict[str, object]:
    return {}


@pytest.fixture
def publisher(house) -> dict[str, str]:
    return house.key("acme", "publisher")


def by_password(key: dict[str, str], name: str = "anybody") -> dict[str, str]:
    secret = key["authorization"].removeprefix("Bearer ")
    pair = base64.b64encode(f"{name}:{secret}".encode()).decode()
    return {"authorization": f"Basic {pair}"}


def submit(house, **spec: Any) -> str:
    row = {"method": "lora", "base": "toy", "name": "clerk", "data": "rows.jsonl", "seed": 3}
    return house.registry.submit_job("acme", row | spec).id


async def page(house, key: dict[str, str], path: str) -> httpx.Response:
    return await house.http.get(path, headers=by_password(key))


async def test_a_password_reads_pages_and_what_they_read_and_changes_nothing(
    house, publisher
) -> None:
    job = submit(house)
    file = house.registry.add_file("acme", "rows.jsonl", "fine-tune", ROWS).id
    password = by_password(publisher)
    for path in (
        "/jobs", f"/jobs/{job}", "/jobs.js", "/jobs.css", "/jobs.svg", f"{JOBS}/{job}",
        f"{JOBS}/{job}/events", f"/v1/files/{file}", f"/v1/files/{file}/content",
    ):  # fmt: skip
        for headers in (password, publisher):
            assert (await house.http.get(path, headers=headers)).status_code == 200, path
    for method, path in (
        ("POST", JOBS), ("POST", f"{JOBS}/{job}/cancel"), ("DELETE", f"/v1/files/{file}"),
        ("POST", "/v1/files"), ("POST", "/jobs"), ("POST", "/v1/completions"),
        ("GET", "/v1/models"), ("GET", "/v1/files"), ("GET", "/openapi.json"),
    ):  # fmt: skip
        refused = await house.http.request(method, path, headers=password)
        assert refused.status_code == 401, (method, path)
        assert refused.headers["www-authenticate"] == "Bearer"
    assert house.registry.tenant_job("acme", job).state == "queued"


@pytest.mark.parametrize(
    "value",
    ["Basic", "Basic ?", "Basic " + "eA==" * 400, "Basic eDo=", "Basic eA==", "Basic /////w=="],
)
async def test_what_is_no_password_is_refused_with_the_question_for_one(house, value: str) -> None:
    refused = await house.http.get("/jobs", headers={"authorization": value})
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == 'Basic realm="Rootstock"'
    assert "the password is the API key of a publisher" in refused.text


async def test_pages_ask_for_the_role_that_their_routes_ask_for(house) -> None:
    for role, status in (("caller", 403), ("publisher", 200), ("admin", 200)):
        answer = await page(house, house.key("acme", role), "/jobs")
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("text/html")


async def test_a_foreign_job_is_a_page_that_says_it_is_not_there(house, publisher) -> None:
    job, other = submit(house), house.key("local", "admin")
    answers = [await page(house, other, f"/jobs/{each}") for each in (job, "ftjob-0")]
    texts = [answer.text.replace(job, "ID").replace("ftjob-0", "ID") for answer in answers]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert texts[0] == texts[1] and "does not exist" in texts[0]
    assert "<h1>Not found</h1>" in texts[0] and "Traceback" not in texts[0]
    assert job not in (await page(house, other, "/jobs")).text
    odd = await page(house, publisher, "/jobs/<b>x")
    assert odd.status_code == 404 and "<b>" not in odd.text
    assert (await page(house, publisher, "/jobs?after=nothing")).status_code == 404
    assert (await page(house, publisher, "/jobs/x/y")).headers["content-type"].startswith("text/")


async def test_every_answer_forbids_what_comes_from_elsewhere(house, publisher) -> None:
    job = submit(house)
    for path in ("/jobs", f"/jobs/{job}", "/jobs.js", "/jobs.css", "/jobs/unknown"):
        answer = await page(house, publisher, path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
        assert "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        if not path.endswith(".js"):
            assert "//" not in answer.text, path  # no address of another place
    bare = await house.http.get(f"/jobs/{job}")
    assert bare.headers["content-security-policy"] == policy


async def test_whatever_people_sent_is_shown_as_text(house, publisher) -> None:
    job = submit(house, name=EVIL, method=EVIL, base=EVIL, data=EVIL, hyperparameters={EVIL: EVIL})
    held = house.registry.claim_job(EVIL, 60.0)
    file = house.registry.add_file("acme", f"{EVIL}.csv".replace("/", ""), "fine-tune-results", b"")
    house.registry.tell_job(held, EVIL, {"step": 1, "train_loss": 0.5})
    house.registry.renew_job(held, 60.0, {"stage": EVIL, "total": 2, "results": [file.id]})
    house.registry.fail_job(held, EVIL)
    run = {"label": EVIL, "seed": 0, "job": job}
    house.registry.create_comparison("acme", {"model": EVIL, "methods": [EVIL], "runs": [run]})
    for path in ("/jobs", f"/jobs/{job}"):
        text = (await page(house, publisher, path)).text
        assert "<script>" not in text and "<img" not in text, path
        assert "&lt;script&gt;alert(1)" in text


async def test_a_page_shows_the_job_without_its_script(house, publisher) -> None:
    job = submit(house, hyperparameters={"rank": 4})
    fresh = (await page(house, publisher, f"/jobs/{job}")).text
    assert "no losses so far" in fresh and ">queued<" in fresh
    held = house.registry.claim_job("w", 60.0)
    file = house.registry.add_file("acme", "loss.png", "fine-tune-results", b"x")
    house.registry.renew_job(
        held, 60.0,
        {"stage": "training", "done": 3, "total": 8, "loss": 0.5, "results": [file.id, "file-x"]},
    )  # fmt: skip
    told = {"step": 3, "total_steps": 8, "train_loss": 0.5}
    house.registry.tell_job(held, "Step 3/8: training loss=0.5000", told)
    text = (await page(house, publisher, f"/jobs/{job}")).text
    for part in (
        ">running<", 'max="8" value="3"', "training 0.5000 at step 3", "Step 3/8: training loss",
        f'href="/v1/files/{file.id}/content" download="loss.png"', "<td>4</td>", "lora on toy",
    ):  # fmt: skip
        assert part in text, part
    assert "file-x" not in text
    listed = (await page(house, publisher, "/jobs")).text
    assert "training 3/8" in listed and "0.5000" in listed and f"/jobs/{job}" in listed


async def test_the_list_goes_on_behind_its_last_job_and_shows_comparisons(house, publisher) -> None:
    assert "There are none yet" in (await page(house, publisher, "/jobs")).text
    jobs = [submit(house) for _ in range(51)]
    run = {"label": "few-shot", "seed": 0, "job": jobs[0]}
    made = house.registry.create_comparison(
        "acme", {"model": "toy", "methods": ["few-shot"], "runs": [run]}
    )
    house.registry.finish_comparison(made, TABLE, failed=False)
    first = (await page(house, publisher, "/jobs")).text
    assert first.index(jobs[50]) < first.index(jobs[1])
    assert made.id in first and "Take &lt;b&gt;it&lt;/b&gt;." in first
    assert f'href="/jobs?after={jobs[1]}"' in first
    rest = (await page(house, publisher, f"/jobs?after={jobs[1]}")).text
    assert jobs[0] in rest and jobs[1] not in rest
