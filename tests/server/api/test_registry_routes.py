"""The registry over HTTP: what each role may see and do, in pages, and only its tenant's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

DATASET = "sha256:" + "d" * 64


@pytest.fixture
def settings() -> dict[str, object]:
    return {}


@pytest.fixture
def many(house: Any, tmp_path: Path) -> Any:
    """`acme` has `own:1` (a LoRA), the prompts `own:2` and `own:3` (prod), and `b0` to `b4`."""
    registry, file = house.registry, tmp_path / "prompt.json"
    for name, text in [("own", "two"), ("own", "three"), *((f"b{n}", "b") for n in range(5))]:
        file.write_text(json.dumps({"template": f"{text}: {{input}}"}))
        registry.import_prompt("acme", name, file, registry.base("toy"), promote="prod")
    return house


async def get(house: Any, path: str, key: dict[str, str]) -> Any:
    answer = await house.http.get(path, headers=key)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_lists_come_in_pages_as_openais_do(many: Any) -> None:
    key = many.key("acme")
    seen: list[str] = []
    after = ""
    for expected in (["b0", "b1"], ["b2", "b3"], ["b4", "own"]):
        page = await get(many, f"/v1/adapters?limit=2{after}", key)
        assert page["object"] == "list"
        ids = [each["id"] for each in page["data"]]
        assert ids == expected
        assert (page["first_id"], page["last_id"]) == (ids[0], ids[-1])
        seen, after = seen + ids, f"&after={page['last_id']}"
        assert page["has_more"] == (len(seen) < 6)
    end = await get(many, "/v1/adapters?after=zzz", key)
    assert end == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip
    versions = await get(many, "/v1/adapters/own/versions?limit=2", key)
    assert [each["id"] for each in versions["data"]] == ["own:3", "own:2"]
    rest = await get(many, "/v1/adapters/own/versions?limit=2&after=own:2", key)
    assert [each["number"] for each in rest["data"]] == [1] and not rest["has_more"]
    first = await get(many, "/v1/aliases?limit=3", key)
    second = await get(many, f"/v1/aliases?limit=3&after={first['last_id']}", key)
    assert [each["id"] for each in (*first["data"], *second["data"])] == [
        "b0@prod", "b1@prod", "b2@prod", "b3@prod", "b4@prod", "own@prod",
    ]  # fmt: skip
    of_one = await get(many, "/v1/aliases?adapter=own", key)
    assert [each["version"] for each in of_one["data"]] == [3]
    bases = await get(many, "/v1/bases?limit=1", key)
    assert bases["has_more"] and bases["data"][0]["object"] == "base"


async def test_a_version_shows_its_manifest_and_what_came_after_it(many: Any) -> None:
    key, place = many.key("acme", "publisher"), "/v1/adapters/own/versions/2"
    shown = await get(many, place, key)
    assert shown["digest"] == many.digest("own:2", "acme")
    assert shown["manifest"]["format"] == "rootstock.version/1"
    assert shown["kinds"] == ["prompt"] and shown["evaluations"] == shown["signed_by"] == []
    body = {"dataset_digest": DATASET, "metrics": {"accuracy": 0.75}}
    added = await many.post(f"{place}/evaluations", body, headers=key)
    assert added.json()["evaluations"][0]["metrics"] == {"accuracy": 0.75}
    adapter = await get(many, "/v1/adapters/own", key)
    assert adapter == {
        "id": "own", "object": "adapter", "base": "toy", "kinds": ["prompt"], "latest": 3,
        "aliases": {"prod": 3},
    }  # fmt: skip


async def test_an_alias_moves_under_gates_goes_back_and_remembers(many: Any) -> None:
    key, place = many.key("acme", "publisher"), "/v1/aliases/own/prod"
    body = {"dataset_digest": DATASET, "metrics": {"accuracy": 0.75}}
    await many.post("/v1/adapters/own/versions/1/evaluations", body, headers=key)
    refused = await many.post(place, {"version": 1, "require": ["accuracy>=0.9"]}, headers=key)
    assert refused.status_code == 409
    error = refused.json()["error"]
    assert error["code"] == "gate_not_met"
    assert "need accuracy >= 0.9, have 0.75" in error["message"]
    moved = await many.post(place, {"version": 1, "require": ["accuracy>=0.7"]}, headers=key)
    assert moved.json() == {
        "id": "own@prod", "object": "alias", "adapter": "own", "alias": "prod", "version": 1,
    }  # fmt: skip
    late = await many.post(place, {"version": 2, "expected": 3}, headers=key)
    assert (late.status_code, late.json()["error"]["code"]) == (409, "conflict")
    back = await many.post(f"{place}/rollback", {"expected": 1}, headers=key)
    assert back.json()["version"] == 3
    history = await get(many, f"{place}/history", key)
    assert [move["version"] for move in history["data"]] == [3, 1, 3, 2, 1]
    assert (await many.http.delete(place, headers=key)).json() == {
        "id": "own@prod", "object": "alias", "deleted": True,
    }  # fmt: skip
    assert (await many.http.get(place, headers=key)).status_code == 404


async def test_versions_are_yanked_and_deleted(many: Any) -> None:
    publisher, admin = many.key("acme", "publisher"), many.key("acme", "admin")
    place = "/v1/adapters/own/versions/1"
    yanked = await many.post(f"{place}/yank", {"reason": "leaks"}, headers=publisher)
    assert (yanked.json()["yanked"], yanked.json()["yank_reason"]) == (True, "leaks")
    refused = await many.post("/v1/aliases/own/prod", {"version": 1}, headers=publisher)
    assert refused.status_code == 409 and "leaks" in refused.text
    assert not (await many.post(f"{place}/unyank", {}, headers=publisher)).json()["yanked"]
    gone = await many.http.delete(place, headers=admin)
    assert gone.json() == {"id": "own:1", "object": "adapter.version", "deleted": True}
    assert (await many.http.get(place, headers=admin)).status_code == 404
    held = await many.http.delete("/v1/adapters/own", headers=admin)
    assert held.status_code == 409
    assert (await many.http.delete("/v1/adapters/own?force=true", headers=admin)).is_success
    assert (await many.http.get("/v1/adapters/own", headers=admin)).status_code == 404


CHANGES = [
    ("publisher", "POST", "/v1/adapters/own/versions/1/yank", {}),
    ("publisher", "POST", "/v1/adapters/own/versions/1/unyank", None),
    ("publisher", "POST", "/v1/adapters/own/versions/1/evaluations",
     {"dataset_digest": DATASET, "metrics": {"a": 1.0}}),
    ("publisher", "POST", "/v1/aliases/own/next", {"version": 1}),
    ("publisher", "POST", "/v1/aliases/own/next/rollback", {}),
    ("publisher", "DELETE", "/v1/aliases/own/next", None),
    ("admin", "DELETE", "/v1/adapters/own/versions/1?force=true", None),
    ("admin", "DELETE", "/v1/adapters/own?force=true", None),
]  # fmt: skip
READS = (
    "/v1/adapters/own", "/v1/adapters/own/versions", "/v1/adapters/own/versions/1",
    "/v1/aliases/own/prod", "/v1/aliases/own/prod/history",
)  # fmt: skip
ROLES = ("caller", "publisher", "admin")


async def test_a_change_needs_its_role_and_a_read_needs_none(house: Any) -> None:
    registry = house.registry
    for needs, method, path, body in CHANGES:
        for role in ROLES[: ROLES.index(needs)]:
            before = registry.evidence.verify_audit().rows + 1  # the key itself is a row
            key = house.key("acme", role)
            refused = await house.http.request(method, path, json=body, headers=key)
            assert refused.status_code == 403, (role, method, path)
            assert refused.json()["error"]["type"] == "permission_error"
            assert registry.evidence.verify_audit().rows == before
    for path in ("/v1/bases", "/v1/adapters", "/v1/aliases", *READS):
        await get(house, path, house.key("acme"))


async def test_another_tenants_things_read_exactly_as_if_they_did_not_exist(house: Any) -> None:
    house.registry.create_tenant("globex")
    key = house.key("globex", "admin")
    for path in ("/v1/adapters", "/v1/aliases"):
        assert (await get(house, path, key))["data"] == []
    calls = [*CHANGES, *(("caller", "GET", path, None) for path in READS)]
    rows = house.registry.evidence.verify_audit().rows
    for _, method, path, body in calls:
        answers = []
        for name in ("own", "zzz"):
            answer = await house.http.request(
                method, path.replace("own", name), json=body, headers=key
            )
            answers.append((answer.status_code, answer.text.replace(name, "NAME")))
        assert answers[0] == answers[1], (method, path)
        assert answers[0][0] == 404, (method, path, answers)
    assert house.registry.evidence.verify_audit().rows == rows


async def test_what_a_key_changes_is_in_the_audit_log_under_its_id(house: Any) -> None:
    key_id, secret = house.registry.create_key("acme", "publisher")
    headers = {"authorization": f"Bearer {secret}"}
    await house.post("/v1/aliases/own/next", {"version": 1}, headers=headers)
    row = house.registry.evidence.audit(limit=1)[0]
    assert (row.actor, row.tenant, row.action, row.object) == (
        key_id, "acme", "move alias", "own@next",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("GET", "/v1/adapters?limit=0", None, "limit"),
        ("GET", "/v1/adapters?limit=101", None, "limit"),
        ("GET", "/v1/adapters?limt=1", None, "limt"),
        ("GET", "/v1/adapters/own/versions?after=own:x", None, "after"),
        ("GET", "/v1/adapters/own/versions?after=b0:1", None, "after"),
        ("GET", "/v1/adapters/own/versions/0", None, "number"),
        ("GET", "/v1/adapters/own/versions/one", None, "number"),
        ("GET", "/v1/bases?after=nobody", None, "after"),
        ("POST", "/v1/aliases/own/prod", None, None),
        ("POST", "/v1/aliases/own/prod", {}, "version"),
        ("POST", "/v1/aliases/own/prod", {"version": "1"}, "version"),
        ("POST", "/v1/aliases/own/prod", {"version": 1, "require": ["accuracy"]}, None),
        ("POST", "/v1/aliases/own/prod", {"version": 1, "require": ["signature"]}, "require"),
        ("POST", "/v1/aliases/own/Prod!", {"version": 1}, None),
        ("POST", "/v1/adapters/own/versions/1/evaluations",
         {"dataset_digest": "x", "metrics": {"a": 1.0}}, "dataset_digest"),
        ("POST", "/v1/adapters/own/versions/1/evaluations",
         {"dataset_digest": DATASET, "metrics": {}}, "metrics"),
    ],
)  # fmt: skip
async def test_bad_input_is_a_400_that_names_the_field(
    house: Any, method: str, path: str, body: Any, param: str | None
) -> None:
    answer = await house.http.request(method, path, json=body, headers=house.key("acme", "admin"))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert body is not None or method == "GET" or "required as the body" in error["message"]
