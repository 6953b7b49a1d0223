"""A database that goes away for a while: what was served is served on, changes are a 503."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_client import ApiError
from rootstock_client.grpc_client import GrpcClient
from rootstock_registry import Registry

from tests.registry.databases import own_postgresql

AWAY_S = 3.0
ASKED = {"prompt": "the quick brown", "max_tokens": 4, "temperature": 0}


@pytest.fixture
def server() -> Iterator[str]:
    with own_postgresql() as url:
        with psycopg.connect(f"{url}/postgres", autocommit=True) as admin:
            admin.execute("CREATE DATABASE rootstock")
        yield url


async def status_over_grpc(address: str, secret: str) -> int:
    async with GrpcClient(address, secret) as door:
        with pytest.raises(ApiError) as refused:
            await door.classify("x", ["voice"])
    return refused.value.status


def test_adapters_that_were_asked_for_answer_on_and_changes_wait(
    start_server, server: str, tiny: dict[str, Path], tmp_path: Path
) -> None:
    home, url = tmp_path / "home", f"{server}/rootstock"
    registry = Registry(home, url)
    card = BaseCard.read(tiny["tiny"], "tiny")
    registry.import_peft("local", "voice", tiny["loud"], card, promote="prod")
    _, secret = registry.create_key("local", "admin")
    registry.close()
    running = start_server(home, bases=[f"tiny={tiny['tiny']}"], database_url=url, no_auth=False)
    headers = {"authorization": f"Bearer {secret}"}
    with httpx.Client(base_url=running.url, headers=headers, timeout=60) as http:

        def completion(model: str) -> httpx.Response:
            return http.post("/v1/completions", json={"model": model, **ASKED})

        def move(number: int) -> httpx.Response:
            return http.post("/v1/aliases/voice/next", json={"version": number})

        before = completion("voice")
        assert before.status_code == 200
        assert http.get("/v1/adapters/voice").status_code == 200
        with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
            admin.execute("ALTER DATABASE rootstock ALLOW_CONNECTIONS false")
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'rootstock'"
            )
            until = time.monotonic() + AWAY_S
            while time.monotonic() < until:
                for model in ("voice", "tiny"):
                    assert completion(model).status_code == 200
                for refused in (completion("voice:1"), move(1), http.get("/v1/adapters")):
                    assert refused.status_code == 503, refused.text
                    assert refused.headers["retry-after"] == "1"
                    said = refused.json()["error"]
                    assert "the registry cannot be reached" in said["message"]
                    assert "127.0.0.1" not in refused.text
            stranger = {"authorization": "Bearer rsk_of-nobody"}
            assert http.get("/v1/models", headers=stranger).status_code == 503
            assert asyncio.run(status_over_grpc(running.grpc, "rsk_of-nobody")) == 503
            assert http.get("/livez").status_code == 200
            admin.execute("ALTER DATABASE rootstock ALLOW_CONNECTIONS true")
        assert move(1).status_code == 200
        after = completion("voice@next")
        digest = "x-rootstock-adapter"
        assert after.headers[digest] == before.headers[digest]
    assert b"Traceback" not in running.log.read_bytes()
    assert running.stop() == 0
