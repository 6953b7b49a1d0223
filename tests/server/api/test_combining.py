"""Several versions in one request: what acts, at which scale, who is named, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from rootstock_adapters.soft_prompt.spec import SoftPromptSpec
from rootstock_registry import Lineage, NewPart
from rootstock_server.engine.request import Adapter
from safetensors.numpy import save

CHAT = [{"role": "user", "content": "hi"}]


def use(model: str, **scale: float) -> dict:
    return {"model": model, **scale}


def publish_soft(house, name: str, tokens: int) -> str:
    card = house.decoder.card
    spec = SoftPromptSpec(method="prompt_tuning", num_virtual_tokens=tokens)
    part = NewPart(spec, save({"prompt_embeddings": np.ones((tokens, card.hidden_size), "f4")}))
    lineage = Lineage(method="test")
    version = house.registry.publish("local", name, card, [part], lineage=lineage, promote="prod")
    return version.digest


async def test_versions_act_in_order_with_their_scales_and_are_all_named(house) -> None:
    body = {"model": "toy", "prompt": "hi", "adapters": [use("b", scale=-0.5), use("a:1")]}
    response = await house.post("/v1/completions", body)
    b, a = house.digest("b"), house.digest("a")
    assert response.headers["x-rootstock-adapter"] == f"{b},{a}"
    assert response.json()["system_fingerprint"] == f"{b},{a}"
    assert response.json()["model"] == "toy"
    assert house.decoder.generated[0].adapters == [Adapter(b, -0.5), Adapter(a, 1.0)]


async def test_chat_streams_and_embeddings_combine_too(house) -> None:
    adapters = [use("a"), use("b", scale=2)]
    wanted = [Adapter(house.digest("a")), Adapter(house.digest("b"), 2.0)]
    named = f"{house.digest('a')},{house.digest('b')}"
    body = {"model": "toy", "messages": CHAT, "adapters": adapters, "stream": True}
    response = await house.post("/v1/chat/completions", body)
    assert response.headers["x-rootstock-adapter"] == named
    assert f'"system_fingerprint":"{named}"' in response.text
    assert house.decoder.generated[0].adapters == wanted
    body = {"model": "toy", "input": "hi", "adapters": adapters}
    response = await house.post("/v1/embeddings", body)
    assert response.json()["system_fingerprint"] == named
    assert house.decoder.encoded[0].adapters == wanted


async def test_heads_read_a_pass_that_adapters_change(house) -> None:
    """`mood` is a head alone, `kind` brings weights of its own: two passes, each with `tone`."""
    card, lineage = house.encoder.card, Lineage(method="test")
    [part] = [p for p in house.registry.resolve("local", "kind").manifest.parts if p.kind == "lora"]
    from rootstock_adapters.kinds import parse_spec

    new = NewPart(parse_spec(part.kind, part.config), house.registry.blobs.get(part.blob))
    house.registry.publish("local", "tone", card, [new], lineage=lineage, promote="prod")
    mood, kind, tone = (house.digest(name) for name in ("mood", "kind", "tone"))
    body = {"models": ["mood", "kind"], "input": "hi", "adapters": [use("tone", scale=0.5)]}
    response = await house.post("/v1/classify", body)
    assert [r["digest"] for r in response.json()["data"][0]["results"]] == [mood, kind]
    assert response.headers["x-rootstock-adapter"] == f"{mood},{tone},{kind}"
    passes = {tuple(each.heads): each.adapters for each in house.encoder.encoded}
    assert passes == {
        (mood,): [Adapter(tone, 0.5)],
        (kind,): [Adapter(kind), Adapter(tone, 0.5)],
    }


@pytest.mark.parametrize(
    ("adapters", "status", "param", "words"),
    [
        ([use("a"), use("nobody")], 404, "adapters[1].model", "does not exist"),
        ([use("a"), use("acme/own")], 404, "adapters[1].model", "does not exist"),
        ([use("kind")], 400, "adapters[0].model", "is for the base reader"),
        ([use("unserved")], 400, "adapters[0].model", "which is not served here"),
        ([use("toy")], 400, "adapters[0].model", "toy is a base"),
        ([use("a")] * 5, 400, "adapters", "at most 4 act together"),
        ([use("a")] * 17, 400, "adapters", "at most 16"),
        ([], 400, "adapters", "at least 1"),
        ([use("a", scale="2")], 400, "adapters[0].scale", "valid number"),
        ([{"name": "a"}], 400, "adapters[0].model", "is required"),
    ],
)
async def test_what_cannot_be_combined_is_refused_by_field(
    house, adapters, status, param, words
) -> None:
    body = {"model": "toy", "prompt": "hi", "adapters": adapters}
    response = await house.post("/v1/completions", body)
    assert response.status_code == status
    assert response.json()["error"]["param"] == param
    assert words in response.json()["error"]["message"]
    assert house.decoder.generated == []


@pytest.mark.parametrize("scale", ["1e999", "-1e999", "NaN"])
async def test_a_scale_must_be_finite(house, scale) -> None:
    text = f'{{"model": "toy", "prompt": "hi", "adapters": [{{"model": "a", "scale": {scale}}}]}}'
    headers = {"content-type": "application/json"}
    response = await house.http.post("/v1/completions", content=text, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "adapters[0].scale"


async def test_a_head_alone_is_no_adapter(house) -> None:
    body = {"model": "reader", "input": "hi", "adapters": [use("mood")]}
    response = await house.post("/v1/embeddings", body)
    assert response.status_code == 400
    assert "has only a head" in response.json()["error"]["message"]


async def test_beside_adapters_the_model_is_the_base(house) -> None:
    body = {"model": "a", "prompt": "hi", "adapters": [use("b")]}
    response = await house.post("/v1/completions", body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "model"
    assert "names the base (toy)" in response.json()["error"]["message"]


async def test_a_task_chooses_its_version_itself(house) -> None:
    house.registry.set_route("local", "support", {"a": 1})
    body = {"prompt": "hi", "adapters": [use("b")]}
    response = await house.post("/v1/tasks/support", body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "adapters"


async def test_virtual_tokens_leave_less_room_and_are_not_billed(house) -> None:
    soft = publish_soft(house, "soft", 20)
    body = {"model": "soft", "messages": CHAT}
    answer = (await house.post("/v1/chat/completions", body)).json()
    [asked] = house.decoder.generated
    assert asked.adapters == [Adapter(soft)]
    assert asked.sampling.max_tokens == 64 - 20 - len(asked.prompt_ids)
    assert answer["usage"]["prompt_tokens"] == len(asked.prompt_ids)
    body = {"model": "soft", "prompt": "hi", "max_tokens": 43}
    response = await house.post("/v1/completions", body)
    assert response.json()["error"]["param"] == "max_tokens"
    assert "soft has room for 42" in response.json()["error"]["message"]


async def test_a_request_takes_one_soft_prompt_at_scale_one(house) -> None:
    publish_soft(house, "first", 2)
    publish_soft(house, "second", 3)
    body = {"model": "toy", "prompt": "hi", "adapters": [use("first"), use("second")]}
    error = (await house.post("/v1/completions", body)).json()["error"]
    assert error["param"] == "adapters[1].model"
    assert "and so has first; a request takes one" in error["message"]
    body["adapters"] = [use("a"), use("first", scale=0.5)]
    error = (await house.post("/v1/completions", body)).json()["error"]
    assert error["param"] == "adapters[1].scale"
