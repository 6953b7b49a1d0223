"""What brought other servers down is refused here at once, by its field, and changes nothing."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.advisories import ATTACKS
from tests.server.attack import COMPLETIONS, Attack, content

GOOD = {"model": "a", "prompt": "hi", "max_tokens": 11, "seed": 7, "logprobs": 2}
MADE_ANEW = ("id", "created")
LIMIT_S = 1.0


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def house(shared_house: Any) -> Any:
    return shared_house


async def good(house: Any) -> dict[str, Any]:
    response = await house.post(COMPLETIONS, GOOD)
    assert response.status_code == 200, response.text
    return {name: value for name, value in response.json().items() if name not in MADE_ANEW}


async def answered(house: Any, attack: Attack) -> httpx.Response:
    sent = content(attack)
    begun = time.process_time()
    response = await house.http.request(
        attack.method, attack.path, content=sent, headers=attack.headers
    )
    # Of this process, where the door runs: another's load is no finding.
    assert time.process_time() - begun < LIMIT_S
    return response


async def test_the_list_is_long_and_names_each_record_once() -> None:
    assert len({attack.id for attack in ATTACKS}) == len(ATTACKS) >= 50


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
async def test_it_is_refused_at_once_and_the_next_answer_is_as_ever(house, attack) -> None:
    reference = await good(house)
    asked = len(house.decoder.generated)
    response = await answered(house, attack)
    assert response.status_code == attack.status, response.text
    error = response.json()["error"]
    assert error["param"] == attack.param, error
    assert attack.param is None or attack.status == 404 or attack.param in error["message"]
    assert len(error["message"]) < 500
    assert len(house.decoder.generated) == asked and not house.encoder.encoded
    assert house.registry.versions("local", "voice") == []
    assert house.registry.files("local") == house.registry.jobs("local") == []
    assert not Path("/tmp/rootstock-was-here").exists()
    assert await good(house) == reference


async def test_headers_without_an_end_are_not_read_for_ever(house) -> None:
    """CVE-2025-48956: vLLM's parser of HTTP took headers of any size."""
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(house.url).port)
    writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-long: " + b"x" * 70_000)
    async with asyncio.timeout(10):
        assert (await reader.read()).startswith(b"HTTP/1.1 4")
    writer.close()
    assert (await good(house))["choices"]


async def test_a_header_that_names_a_request_is_not_an_address(house) -> None:
    """CVE-2026-116176: vLLM sent an answer to where X-Request-Id said."""
    reference = await good(house)
    for name in ("http://127.0.0.1:1/x", "tcp://127.0.0.1:1", "../x", "x" * 4000):
        response = await house.http.post(COMPLETIONS, json=GOOD, headers={"x-request-id": name})
        assert response.status_code == 200
        assert name not in response.text and name not in response.headers.values()
        assert response.json()["choices"] == reference["choices"]
