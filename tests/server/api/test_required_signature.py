"""With `require_signature`, no door answers with a version that the key has not signed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from rootstock_client import ApiError
from rootstock_client.grpc_client import GrpcClient
from rootstock_registry.errors import InvalidKey
from rootstock_registry.signing import new_key_pair
from rootstock_server.api.grpc_api import start_grpc
from rootstock_server.pins import follow
from rootstock_server.tenancy.trust import Trust


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return new_key_pair(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return new_key_pair(tmp_path_factory.mktemp("others"))


@pytest.fixture
def settings(keys: tuple[Path, Path]) -> dict[str, object]:
    return {"no_auth": True, "require_signature": keys[1]}


CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def every_door(adapter: str, head: str, prompt: str) -> list[tuple[str, dict[str, Any]]]:
    beside = {"adapters": [{"model": adapter}]}
    return [
        ("/v1/completions", {"model": adapter, "prompt": "hi"}),
        ("/v1/completions", {"model": prompt, "prompt": "hi"}),
        ("/v1/chat/completions", {"model": adapter, **CHAT}),
        ("/v1/chat/completions", {"model": "toy", **CHAT, **beside}),
        ("/v1/embeddings", {"model": adapter, "input": "hi"}),
        ("/v1/classify", {"models": [head], "input": "hi"}),
        ("/v1/tasks/mail", {"prompt": "hi"}),
    ]


async def test_an_unsigned_version_is_refused_at_every_door(house: Any, tmp_path: Path) -> None:
    file = tmp_path / "prompt.json"
    file.write_text('{"template": "Q: {input}"}')
    toy = house.registry.base("toy")
    house.registry.import_prompt("local", "asker", file, toy, promote="prod")
    house.registry.set_route("local", "mail", {"a": 1})
    for path, body in every_door("a", "mood", "asker"):
        answer = await house.post(path, body)
        if path.startswith("/v1/tasks"):  # none of its targets may be loaded
            assert answer.status_code == 404, (path, answer.text)
            continue
        assert answer.status_code == 403, (path, body, answer.text)
        error = answer.json()["error"]
        assert error["code"] == "signature_required"
        assert "is not signed" in error["message"] and "rootstock sign" in error["message"]
    assert (await house.http.get("/v1/models/a")).status_code == 403
    door = await start_grpc(house.handle, "127.0.0.1:0")
    async with GrpcClient(f"127.0.0.1:{door.port}") as client:
        with pytest.raises(ApiError) as refused:
            await client.embed("good", model="a")
    await door.stop()
    assert refused.value.code == "signature_required" or "signed" in str(refused.value)
    assert not house.decoder.generated and not house.decoder.encoded
    assert not house.encoder.encoded


async def test_the_base_alone_answers(house: Any) -> None:
    assert (await house.post("/v1/completions", {"model": "toy", "prompt": "hi"})).is_success


async def test_a_version_that_is_signed_meanwhile_is_served_from_then_on(
    house: Any, keys: tuple[Path, Path], others: tuple[Path, Path]
) -> None:
    body = {"model": "a", "prompt": "hi"}
    house.registry.evidence.sign("local", "a", others[0])
    refused = await house.post("/v1/completions", body)
    assert refused.status_code == 403 and "other keys only" in refused.text
    house.registry.evidence.sign("local", "a", keys[0])
    assert (await house.post("/v1/completions", body)).is_success
    assert len(house.decoder.generated) == 1


async def test_a_bundle_of_another_version_opens_nothing(
    house: Any, keys: tuple[Path, Path]
) -> None:
    """Somebody with the database in hands puts a good signature under a version it is not of."""
    from rootstock_registry.database import upsert
    from rootstock_registry.model import signatures

    made = house.registry.evidence.sign("local", "b", keys[0])
    row = {"version_digest": house.digest("a"), "key_id": made.key_id, "bundle": made.bundle}
    with house.registry._database.writes.begin() as connection:
        upsert(connection, signatures, row | {"created_at": 0.0}, key=["version_digest", "key_id"])
    refused = await house.post("/v1/completions", {"model": "a", "prompt": "hi"})
    assert refused.status_code == 403 and "does not fit" in refused.text


async def test_a_good_signature_is_verified_once(house: Any, keys: tuple[Path, Path]) -> None:
    house.registry.evidence.sign("local", "a", keys[0])
    body = {"model": "a", "prompt": "hi"}
    assert (await house.post("/v1/completions", body)).is_success
    verified = house.registry.evidence.verify
    house.registry.evidence.verify = None  # a second look would fail
    try:
        assert (await house.post("/v1/completions", body)).is_success
    finally:
        house.registry.evidence.verify = verified


async def test_an_unsigned_pin_is_not_made_resident(house: Any, keys: tuple[Path, Path]) -> None:
    pinned: list[list[str]] = []
    house.decoder.pin = lambda versions: pinned.append(list(versions))
    house.encoder.pin = lambda versions: None
    following = asyncio.create_task(
        follow(["a"], house.registry, house.engines, house.handle.trust)
    )
    await house.eventually(lambda: pinned)
    assert pinned[0] == []
    house.registry.evidence.sign("local", "a", keys[0])
    await house.eventually(lambda: pinned[-1] == [house.digest("a")])
    following.cancel()


async def test_a_promotion_may_demand_the_servers_own_key(
    house: Any, keys: tuple[Path, Path]
) -> None:
    body = {"version": 1, "require": ["signature"]}
    refused = await house.post("/v1/aliases/a/next", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "gate_not_met")
    house.registry.evidence.sign("local", "a:1", keys[0])
    assert (await house.post("/v1/aliases/a/next", body)).json()["version"] == 1


def test_a_file_that_is_no_key_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "pub.pem").write_text("hello")
    with pytest.raises(InvalidKey, match="not a public key"):
        Trust(None, tmp_path / "pub.pem")  # type: ignore[arg-type]
