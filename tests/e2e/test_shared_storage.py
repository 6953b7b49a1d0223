"""Two servers on two homes share one PostgreSQL and one bucket: what one takes in, both answer."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest
from rootstock_registry import storage

from tests.registry.buckets import s3_server
from tests.registry.databases import own_postgresql

SEEN_S = 60.0  # more than a server on another machine may take to see a moved alias
ASKED = {"prompt": "the quick brown", "max_tokens": 6, "temperature": 0}


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The settings of both servers."""
    with own_postgresql() as server, s3_server() as bucket:
        with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
            admin.execute("CREATE DATABASE rootstock")
        for name, value in {
            "AWS_ENDPOINT_URL": bucket, "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield {"database_url": f"{server}/rootstock", "blobs": "s3://shelf/rootstock"}


def rootstock(home: Path, *words: str) -> str:
    command = [sys.executable, "-m", "rootstock_cli.main", *words, "--home", str(home)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def completion(url: str, model: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/completions", json={"model": model, **ASKED}, timeout=120)


def digest_seen(url: str, model: str, other_than: str = "") -> str:
    """The digest that answers as `model`, as soon as one does that is not `other_than`."""
    deadline = time.monotonic() + SEEN_S
    while time.monotonic() < deadline:
        answer = completion(url, model)
        digest = answer.headers.get("x-rootstock-adapter", "")
        if answer.status_code == 200 and digest != other_than:
            return digest
        time.sleep(0.1)
    pytest.fail(f"{model} was not seen within {SEEN_S} s: {answer.text}")


def test_a_version_taken_in_at_one_home_answers_at_both_and_moves_at_both(
    start_server, shared: dict[str, str], tiny: dict[str, Path], tmp_path: Path
) -> None:
    homes = [tmp_path / name for name in ("one", "two")]
    for home in homes:
        home.mkdir()
        storage.remember(home, shared["database_url"], shared["blobs"], 64)
    bases = [f"tiny={tiny['tiny']}"]
    servers = [start_server(home, bases=bases, **shared) for home in homes]
    loud, calm = (str(tiny[name]) for name in ("loud", "calm"))
    rootstock(homes[0], "import", loud, "--as", "voice", "--base", "tiny", "--promote", "prod")
    first = {digest_seen(server.url, "voice") for server in servers}
    rootstock(homes[1], "import", calm, "--as", "voice", "--base", "tiny", "--promote", "prod")
    second = {digest_seen(server.url, "voice", *first) for server in servers}
    assert len(first) == len(second) == 1
    texts = {completion(server.url, "voice").json()["choices"][0]["text"] for server in servers}
    assert len(texts) == 1
    assert "voice" in rootstock(homes[0], "list")
    assert "rows fit together" in rootstock(homes[1], "audit", "verify")
    for home in homes:
        assert not (home / "registry.db").exists() and not (home / "blobs").exists()
    assert [server.stop() for server in servers] == [0, 0]
