"""Whatever HTTP refuses, gRPC refuses: same status, same words, same field."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from rootstock_wire.v1 import inference_pb2 as pb
from rootstock_wire.v1.inference_pb2_grpc import InferenceStub

from tests.server.advisories import ATTACKS
from tests.server.attack import Attack

pytestmark = pytest.mark.asyncio(loop_scope="session")

STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.NOT_FOUND: 404,
}
LONG = "x" * 500_001

# A field that means the same on both sides, with a value that neither may take.
FIELDS: list[tuple[str, Any]] = [
    ("temperature", -0.5),
    ("temperature", 2.5),
    ("temperature", math.nan),
    ("temperature", math.inf),
    ("top_p", 0.0),
    ("top_p", 1.5),
    ("top_k", -2),
    ("top_k", 1_000_001),
    ("max_tokens", 0),
    ("max_tokens", -5),
    ("max_tokens", 100_000),
    ("min_tokens", -1),
    ("min_tokens", 100),
    ("min_p", 1.5),
    ("presence_penalty", -2.5),
    ("frequency_penalty", math.nan),
    ("repetition_penalty", 0.0),
    ("logit_bias", {999_999: 1.0}),
    ("logit_bias", {1: 101.0}),
    ("structured_outputs", {"regex": "("}),
    ("structured_outputs", {"json": "[1]"}),
    ("structured_outputs", {"json": '{"type": "wat"}'}),
    ("structured_outputs", {}),
    ("logprobs", -1),
    ("logprobs", 21),
    ("stop", ["a", "b", "c", "d", "e"]),
    ("stop", [""]),
    ("stop", ["x" * 65]),
    ("user", "u" * 257),
    ("source_lang", "en"),
    ("target_lang", "fr"),
    ("target_lang", "x" * 17),
    ("model", ""),
    ("model", "m" * 257),
    ("model", "nobody"),
    ("model", "triage:99"),
    ("model", "triage@nowhere"),
    ("model", "Not A Name"),
    ("model", "acme/triage"),
    ("model", "encoder"),
    ("model", "mood"),
]

PROMPTS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"text": ""}, {"prompt": ""}),
    ({"text": LONG}, {"prompt": LONG}),
    ({"text": "x" * 5000}, {"prompt": "x" * 5000}),
    ({"token_ids": {}}, {"prompt": []}),
    ({"token_ids": {"ids": [-1]}}, {"prompt": [-1]}),
    ({"token_ids": {"ids": [1, 999_999]}}, {"prompt": [1, 999_999]}),
    ({"token_ids": {"ids": [1] * 131_073}}, {"prompt": [1] * 131_073}),
]

CHATS: list[list[dict[str, str]]] = [
    [],
    [{"role": "wizard", "content": "Hi"}],
    [{"role": "", "content": "Hi"}],
    [{"role": "user", "content": LONG}],
    [{"role": "user", "content": "x" * 5000}],
    [{"role": "user", "content": "Hi"}] * 1025,
]

CLASSIFY: list[dict[str, Any]] = [
    {"input": [], "models": ["mood"]},
    {"input": [""], "models": []},
    {"input": ["good"], "models": [""]},
    {"input": ["good"], "models": ["mood"] * 17},
    {"input": ["good"], "models": ["mood", "nobody"]},
    {"input": ["good"], "models": ["encoder"]},
    {"input": ["good"], "models": ["triage"]},
    {"input": ["good"] * 257, "models": ["mood"]},
    {"input": [LONG], "models": ["mood"]},
    {"input": ["x" * 600], "models": ["mood"]},
    {"input": ["good"], "models": ["mood"], "user": "u" * 257},
]

EMBED: list[dict[str, Any]] = [
    {"model": "", "input": ["good"]},
    {"model": "nobody", "input": ["good"]},
    {"model": "mood", "input": ["good"]},
    {"model": "encoder", "input": []},
    {"model": "encoder", "input": ["good"] * 257},
    {"model": "encoder", "input": ["x" * 600]},
    {"model": "encoder", "input": [LONG]},
]


class BothDoors:
    """Sends one bad request through each door and returns the two refusals in the same shape."""

    def __init__(self, http: httpx.AsyncClient, stub: Any, key: str) -> None:
        self._http, self._stub, self._key = http, stub, key

    async def refuse(self, method: str, request: Any, path: str, body: Any) -> None:
        over_http = await self._over_http(path, body)
        over_grpc = await self._over_grpc(method, request)
        assert over_grpc == over_http
        assert 400 <= over_http["status"] < 500

    async def answer(self) -> list[int]:
        """A good request's tokens."""
        request = pb.GenerateRequest(model="triage", text="Hello", max_tokens=8, temperature=0)
        metadata = [("authorization", f"Bearer {self._key}")]
        call = self._stub.Generate(request, metadata=metadata, timeout=30)
        return [token async for piece in call for token in piece.token_ids]

    async def _over_http(self, path: str, body: Any) -> dict[str, Any]:
        # json.dumps writes NaN, which a hostile caller may do as well.
        response = await self._http.post(path, content=json.dumps(body))
        error = response.json()["error"]
        # Details of a gRPC status are cut, as they travel as a header.
        return {**error, "message": error["message"][:1000], "status": response.status_code}

    async def _over_grpc(self, method: str, request: Any) -> dict[str, Any]:
        metadata = [("authorization", f"Bearer {self._key}")]
        call = getattr(self._stub, method)(request, metadata=metadata, timeout=120)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [piece async for piece in call] if method == "Generate" else await call
        trailing = dict(caught.value.trailing_metadata())
        return {
            "status": STATUS[caught.value.code()],
            "message": caught.value.details(),
            **{name: trailing.get(name) for name in ("type", "param", "code")},
        }


@pytest_asyncio.fixture(loop_scope="session")
async def doors(house: Any) -> AsyncIterator[BothDoors]:
    headers = {"authorization": f"Bearer {house.local_key}", "content-type": "application/json"}
    async with (
        httpx.AsyncClient(
            transport=httpx.ASGITransport(house.app), base_url="http://door", headers=headers
        ) as http,
        grpc.aio.insecure_channel(house.target) as channel,
    ):
        yield BothDoors(http, InferenceStub(channel), house.local_key)


def named(value: Any) -> str:
    return str(value)[:40]


@pytest.mark.parametrize(("field", "value"), FIELDS, ids=named)
async def test_a_bad_field_is_refused_alike(doors: BothDoors, field: str, value: Any) -> None:
    common = {"model": "decoder", "max_tokens": 8, field: value}
    request = pb.GenerateRequest(text="Hello", **common)
    await doors.refuse("Generate", request, "/v1/completions", {"prompt": "Hello", **common})


@pytest.mark.parametrize(("fields", "body"), PROMPTS, ids=named)
async def test_a_bad_prompt_is_refused_alike(
    doors: BothDoors, fields: dict[str, Any], body: dict[str, Any]
) -> None:
    request = pb.GenerateRequest(model="decoder", **fields)
    await doors.refuse("Generate", request, "/v1/completions", {"model": "decoder", **body})


@pytest.mark.parametrize("messages", CHATS, ids=named)
async def test_a_bad_chat_is_refused_alike(
    doors: BothDoors, messages: list[dict[str, str]]
) -> None:
    request = pb.GenerateRequest(model="decoder", chat={"messages": messages})
    body = {"model": "decoder", "messages": messages}
    await doors.refuse("Generate", request, "/v1/chat/completions", body)


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.twin], ids=lambda a: a.id)
async def test_what_brought_others_down_is_refused_alike_and_stops_no_engine(
    house: Any, doors: BothDoors, attack: Attack
) -> None:
    engine = house.handle.bases["decoder"].engine
    process, reference = engine._supervisor._process.pid, await doors.answer()
    assert attack.twin is not None
    text = {} if "token_ids" in attack.twin else {"text": "hi"}
    request = pb.GenerateRequest(**({"model": "decoder"} | text | attack.twin))
    body = attack.body | ({} if "model" in attack.twin else {"model": "decoder"})
    await doors.refuse("Generate", request, attack.path, body)
    assert await doors.answer() == reference
    assert engine._supervisor._process.pid == process


@pytest.mark.parametrize("task", ["nothing", "Not A Name"])
async def test_an_unknown_task_is_refused_alike(doors: BothDoors, task: str) -> None:
    request = pb.GenerateRequest(task=task, text="Hello")
    await doors.refuse("Generate", request, f"/v1/tasks/{task}", {"prompt": "Hello"})
    request = pb.ClassifyRequest(task=task, input=["good"])
    await doors.refuse("Classify", request, f"/v1/tasks/{task}", {"input": ["good"]})


async def test_a_task_of_the_wrong_sort_is_refused_alike(doors: BothDoors) -> None:
    request = pb.GenerateRequest(task="feeling", text="Hello")
    await doors.refuse("Generate", request, "/v1/tasks/feeling", {"prompt": "Hello"})
    request = pb.ClassifyRequest(task="support", input=["good"])
    await doors.refuse("Classify", request, "/v1/tasks/support", {"input": ["good"]})


async def test_a_task_together_with_models_is_refused_alike(doors: BothDoors) -> None:
    body = {"input": ["good"], "models": ["mood"]}
    request = pb.ClassifyRequest(task="feeling", **body)
    await doors.refuse("Classify", request, "/v1/tasks/feeling", body)


@pytest.mark.parametrize("body", CLASSIFY, ids=named)
async def test_a_bad_classification_is_refused_alike(
    doors: BothDoors, body: dict[str, Any]
) -> None:
    await doors.refuse("Classify", pb.ClassifyRequest(**body), "/v1/classify", body)


@pytest.mark.parametrize("body", EMBED, ids=named)
async def test_a_bad_embedding_is_refused_alike(doors: BothDoors, body: dict[str, Any]) -> None:
    await doors.refuse("Embed", pb.EmbedRequest(**body), "/v1/embeddings", body)
