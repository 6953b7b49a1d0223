"""A PEFT folder over HTTP: the version that the command makes of it, or a refusal and no trace."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
LORA = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4,
    "target_modules": ["q_proj"],
}  # fmt: skip
MAX_BYTES = 20_000


@pytest.fixture
def settings() -> dict[str, object]:
    return {"limits": {"max_file_bytes": MAX_BYTES}}


@pytest.fixture
def publisher(house: Any) -> dict[str, str]:
    key: dict[str, str] = house.key("acme", "publisher")
    return key


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the server puts files while it reads them."""
    place = tmp_path / "uploads"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def weights(width: int = 4, value: float = 0.5) -> bytes:
    down, up = np.full((2, width), value, "f4"), np.ones((width, 2), "f4")
    return save({f"{MODULE}.lora_A.weight": down, f"{MODULE}.lora_B.weight": up})


def form(**changes: Any) -> dict[str, Any]:
    """A good upload with `changes`; None takes a field away."""
    fields = {"name": "voice", "base": "toy", "config": LORA, "weights": weights()} | changes
    config, data = fields.pop("config"), fields.pop("weights")
    text = config if isinstance(config, bytes | None) else json.dumps(config).encode()
    files = {CONFIG: (CONFIG, text), WEIGHTS: (WEIGHTS, data)}
    return {
        "data": {name: value for name, value in fields.items() if value is not None},
        "files": {name: pair for name, pair in files.items() if pair[1] is not None},
    }


async def send(house: Any, headers: dict[str, str], **changes: Any) -> httpx.Response:
    answer: httpx.Response = await house.http.post(
        "/v1/adapters", headers=headers, **form(**changes)
    )
    return answer


@contextmanager
def no_trace(house: Any, uploads: Path) -> Iterator[None]:
    """Inside, nothing of `acme` changes, no blob is stored, and nothing is left behind."""
    registry = house.registry

    def now() -> tuple[Any, ...]:
        kept = sorted(entry.digest for entry in registry.blobs.entries())
        return registry.adapters("acme"), kept, registry.evidence.verify_audit()

    before = now()
    yield
    assert now() == before
    assert list(uploads.iterdir()) == []


async def test_a_folder_becomes_the_version_that_the_command_makes_of_it_and_is_served(
    house: Any, tmp_path: Path, uploads: Path
) -> None:
    key_id, secret = house.registry.create_key("acme", "publisher")
    headers = {"authorization": f"Bearer {secret}"}
    made = await send(house, headers, promote="prod")
    assert made.status_code == 201, made.text
    version = made.json()
    assert (version["id"], version["aliases"], version["kinds"]) == ("voice:1", ["prod"], ["lora"])
    assert house.registry.evidence.audit(limit=1)[0].actor == key_id
    (tmp_path / CONFIG).write_text(json.dumps(LORA))
    (tmp_path / WEIGHTS).write_bytes(weights())
    card = house.registry.base("toy")
    same = house.registry.import_peft("acme", "by-hand", tmp_path, card)
    assert version["digest"] == same.digest
    body = {"model": "voice", "prompt": "hi"}
    answer = await house.post("/v1/completions", body, headers=headers)
    assert answer.headers["x-rootstock-adapter"] == version["digest"]
    assert list(uploads.iterdir()) == []


async def test_the_same_content_twice_is_one_version(house: Any, publisher: dict[str, str]) -> None:
    answers = [await send(house, publisher) for _ in "12"]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    other = await send(house, publisher, weights=weights(value=2.0))
    assert other.json()["id"] == "voice:2"
    assert len(house.registry.versions("acme", "voice")) == 2


REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"weights": weights()[:-1]}, 400, WEIGHTS, WEIGHTS),
    ({"weights": b"\x80\x04\x95" + b"\0" * 64}, 400, WEIGHTS, WEIGHTS),
    ({"weights": weights(value=float("nan"))}, 400, WEIGHTS, "not finite"),
    ({"weights": b""}, 400, WEIGHTS, WEIGHTS),
    ({"config": b"{"}, 400, CONFIG, "cannot be read"),
    ({"config": LORA | {"peft_type": "LOKR"}}, 400, CONFIG, "peft_type"),
    ({"config": LORA | {"auto_mapping": {"x": "os.system"}}}, 400, CONFIG, "auto_mapping"),
    ({"config": None}, 400, CONFIG, "is required, as a file"),
    ({"weights": None}, 400, WEIGHTS, "is required, as a file"),
    ({"config": None, CONFIG: "{}"}, 400, CONFIG, "is required, as a file"),
    ({"weights": weights(width=8)}, 400, "base", "does not fit base 'toy'"),
    ({"weights": weights(width=8), "base": None}, 400, "base", "fit none of the registered"),
    ({"base": None}, 400, "base", "fit several of the registered bases"),
    ({"base": "nobody"}, 404, "base", "nobody"),
    ({"name": None}, 400, "name", "is required"),
    ({"name": "Voice!"}, 400, "name", "'Voice!' is not a valid name"),
    ({"name": "local/a"}, 400, "name", "is not a valid name"),
    ({"name": "v" * 5000}, 400, CONFIG, "no multipart form: Part exceeded"),
    ({"name": ["voice", "choir"]}, 400, "name", "is there twice"),
    ({"name": "toy"}, 400, "name", "a base has this name"),
    ({"promote": "Prod!"}, 400, "promote", "'Prod!' is not a valid name"),
    ({"alias": "prod"}, 400, "alias", "is not supported here"),
    ({"weights": weights(width=2000)}, 413, WEIGHTS, f"larger than {MAX_BYTES} bytes"),
]


async def test_what_cannot_be_published_is_refused_by_its_field_and_leaves_no_trace(
    house: Any, publisher: dict[str, str], uploads: Path
) -> None:
    with no_trace(house, uploads):
        for changes, status, param, says in REFUSED:
            refused = await send(house, publisher, **changes)
            error = refused.json()["error"]
            assert (refused.status_code, error["param"] or "") == (status, param), error
            assert says in error["message"], error
            assert str(uploads) not in refused.text
        plain = await house.post("/v1/adapters", {"name": "voice"}, headers=publisher)
        assert (plain.status_code, plain.json()["error"]["param"]) == (400, CONFIG)


async def test_an_upload_is_its_tenants_own_and_needs_a_publisher(
    house: Any, publisher: dict[str, str], uploads: Path
) -> None:
    with no_trace(house, uploads):
        assert (await send(house, {})).status_code == 401
    caller = house.key("acme")
    with no_trace(house, uploads):
        assert (await send(house, caller)).status_code == 403
    before = house.digest("a")
    mine = await send(house, publisher, name="a", promote="prod")
    assert mine.json()["id"] == "a:1"
    assert house.digest("a") == before != mine.json()["digest"]
    await send(house, publisher)
    foreign = await house.http.get("/v1/adapters/voice", headers=house.key("local", "admin"))
    assert foreign.status_code == 404


async def test_an_upload_that_is_cut_off_leaves_no_trace_and_is_no_fault(
    house: Any, publisher: dict[str, str], uploads: Path
) -> None:
    request = httpx.Request("POST", f"{house.url}/v1/adapters", headers=publisher, **form())
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    body = request.read()
    with no_trace(house, uploads):
        with socket.create_connection((request.url.host, request.url.port)) as line:
            line.sendall(f"POST /v1/adapters HTTP/1.1\r\n{head}\r\n".encode() + body[:-200])
        counted = 'rootstock_requests_total{route="/v1/adapters",status="400"} 1.0'
        async with asyncio.timeout(30):
            while counted not in (await house.http.get("/metrics")).text:
                await asyncio.sleep(0.02)
