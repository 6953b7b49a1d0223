"""Default deny: keys, roles, tenants, and what answers without any of them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from rootstock_registry import Registry
from rootstock_server.api.intake import OPEN_PATHS

BODY = {"model": "toy", "prompt": "hi"}


@pytest.fixture
def settings() -> dict[str, object]:
    return {"limits": {"max_in_flight_per_tenant": 2}}


def every_route(routes) -> list[tuple[str, str]]:
    """(method, path) of each route, those of included routers, too."""
    found = []
    for route in routes:
        if hasattr(route, "original_router"):
            found += every_route(route.original_router.routes)
        else:
            found += [(method, route.path) for method in sorted(route.methods)]
    return found


async def test_every_route_but_the_open_ones_asks_for_a_key(house) -> None:
    routes = every_route(house.app.routes)
    assert len(routes) >= 12
    taken, revoked = house.registry.create_key("local", "admin")
    house.registry.revoke_key("local", taken)
    _, expired = house.registry.create_key("local", "admin", expires_at=datetime.now(UTC))
    paths = {path for _, path in routes}
    assert paths >= OPEN_PATHS | {"/v1/completions", "/v1/tasks/{task}", "/openapi.json"}
    for method, path in [*routes, ("GET", "/"), ("GET", "/docs"), ("PUT", "/nowhere")]:
        place = path.replace("{model:path}", "toy").replace("{task}", "x")
        bare = await house.http.request(method, place)
        if path in OPEN_PATHS:
            assert bare.status_code == 200, path
            continue
        for headers in (
            {},
            {"authorization": "Bearer rsk_wrong"},
            {"authorization": f"Bearer {revoked}"},
            {"authorization": f"Bearer {expired}"},
            {"authorization": "Basic eDp5"},
            {"authorization": "Bearer"},
            {"authorization": "Bearer " + "x" * 4000},
        ):
            response = await house.http.request(method, place, headers=headers)
            assert response.status_code == 401, (method, path, headers)
            by_browser = method == "GET" and path.startswith("/jobs")
            challenge = 'Basic realm="Rootstock"' if by_browser else "Bearer"
            assert response.headers["www-authenticate"] == challenge
    assert not house.decoder.generated


async def test_a_revoked_key_reads_like_an_unknown_one_from_the_next_request_on(
    house, configured
) -> None:
    key_id, secret = house.registry.create_key("acme", "admin")
    headers = {"authorization": f"Bearer {secret}"}
    assert (await house.post("/v1/completions", BODY, headers=headers)).status_code == 200
    command = Registry(configured.home)
    command.revoke_key("acme", key_id)
    command.close()
    refused = await house.post("/v1/completions", BODY, headers=headers)
    unknown = await house.post(
        "/v1/completions", BODY, headers={"authorization": "Bearer rsk_wrong"}
    )
    assert refused.status_code == unknown.status_code == 401
    assert refused.json() == unknown.json()
    assert refused.json()["error"]["code"] == "invalid_api_key"


async def test_the_open_routes_name_no_tenant_and_no_adapter(house) -> None:
    key = house.key("acme")
    assert (await house.post("/v1/completions", BODY | {"model": "own"}, headers=key)).is_success
    for path in OPEN_PATHS:
        text = (await house.http.get(path)).text
        assert "acme" not in text and "own" not in text


async def test_a_role_of_any_size_may_ask(house) -> None:
    for role in ("caller", "publisher", "admin"):
        response = await house.post("/v1/completions", BODY, headers=house.key("acme", role))
        assert response.status_code == 200


async def test_two_authorization_headers_are_none(house) -> None:
    headers = [("authorization", house.key("acme")["authorization"])] * 2
    response = await house.http.get("/v1/models", headers=headers)
    assert response.status_code == 401


async def test_a_foreign_adapter_reads_exactly_like_one_that_does_not_exist(house) -> None:
    key = house.key("acme")
    for foreign, unknown in (("local/a", "local/z"), ("a", "z"), ("local/a:1", "local/z:1")):
        answers = []
        for name in (foreign, unknown):
            response = await house.post("/v1/completions", BODY | {"model": name}, headers=key)
            answers.append((response.status_code, response.text.replace(f"`{name}`", "NAME")))
            assert (await house.http.get(f"/v1/models/{name}", headers=key)).status_code == 404
        assert answers[0] == answers[1]
        assert answers[0][0] == 404


async def test_a_tenant_sees_the_bases_and_its_own_adapters(house) -> None:
    models = (await house.http.get("/v1/models", headers=house.key("acme"))).json()
    assert [card["id"] for card in models["data"]] == ["toy", "reader", "own"]
    own = models["data"][2]
    assert own["parent"] == "toy" and own["owned_by"] == "acme"
    assert own["root"] == house.digest("own", "acme")


async def test_one_request_too_many_is_a_429_for_its_tenant_alone(house) -> None:
    house.decoder.pause = asyncio.Event()
    acme, local = house.key("acme"), house.key("local")
    held = [asyncio.create_task(house.post("/v1/completions", BODY, headers=acme)) for _ in "12"]
    await house.eventually(lambda: len(house.decoder.generated) == 2)
    refused = await house.post("/v1/completions", BODY, headers=acme)
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    other = asyncio.create_task(house.post("/v1/completions", BODY, headers=local))
    await house.eventually(lambda: len(house.decoder.generated) == 3)
    house.decoder.pause.set()
    assert [answer.status_code for answer in await asyncio.gather(*held, other)] == [200] * 3
    assert (await house.post("/v1/completions", BODY, headers=acme)).status_code == 200


async def test_a_refused_request_does_not_keep_its_place(house) -> None:
    key = house.key("acme")
    for _ in range(5):
        bad = await house.post("/v1/completions", BODY | {"max_tokens": 999}, headers=key)
        assert bad.status_code == 400
    assert (await house.post("/v1/completions", BODY, headers=key)).status_code == 200
