"""Prompts as versions: what is said around a caller's text, at every door that takes text."""

from __future__ import annotations

import numpy as np
import pytest
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.prompt.spec import NO_TENSORS, PromptSpec
from rootstock_registry import Lineage, NewPart
from rootstock_server.engine.request import Adapter
from safetensors.numpy import save

SHORT = PromptSpec(template="Q:{input}")
FULL = PromptSpec.model_validate(
    {"template": "Q:{input}\nA:", "system": "S", "examples": [{"input": "1", "output": "2"}]}
)


def publish(house, name: str, spec: PromptSpec, *others: NewPart, base: str = "toy") -> str:
    card, lineage = house.engines[base].card, Lineage(method="test")
    parts = [NewPart(spec, NO_TENSORS), *others]
    version = house.registry.publish("local", name, card, parts, lineage=lineage, promote="prod")
    return version.digest


def low_rank(house) -> NewPart:
    """The weights of `a` once more, as a part of another version."""
    from rootstock_adapters.kinds import parse_spec

    [part] = house.registry.resolve("local", "a").manifest.parts
    return NewPart(parse_spec(part.kind, part.config), house.registry.blobs.get(part.blob))


async def test_a_completion_is_asked_inside_the_template(house) -> None:
    digest = publish(house, "asker", FULL)
    response = await house.post("/v1/completions", {"model": "asker", "prompt": ["x", "y"]})
    assert response.headers["x-rootstock-adapter"] == digest
    asked = sorted(house.decoder.generated, key=lambda each: each.prompt_ids)
    wanted = ["S\n\nQ:1\nA: 2\n\nQ:x\nA:", "S\n\nQ:1\nA: 2\n\nQ:y\nA:"]
    assert [each.prompt_ids for each in asked] == sorted(map(house.ids, wanted))
    assert all(each.adapters == [] for each in asked)
    tokens = sum(len(each.prompt_ids) for each in asked)
    assert response.json()["usage"]["prompt_tokens"] == tokens


async def test_chat_gets_the_system_text_and_the_examples_as_turns(house) -> None:
    publish(house, "asker", PromptSpec(template="?{input}", system="S", examples=FULL.examples))
    messages = [{"role": "developer", "content": "T"}, {"role": "user", "content": "z"}]
    body = {"model": "asker", "messages": messages}
    assert (await house.post("/v1/chat/completions", body)).status_code == 200
    wanted = "<system>S\n\nT<user>?1<assistant>2<user>?z<assistant>"
    assert house.decoder.generated[0].prompt_ids == house.ids(wanted)


async def test_a_prompt_and_weights_make_one_version(house) -> None:
    digest = publish(house, "both-ways", SHORT, low_rank(house))
    await house.post("/v1/completions", {"model": "both-ways", "prompt": "x"})
    [asked] = house.decoder.generated
    assert asked.prompt_ids == house.ids("Q:x")
    assert asked.adapters == [Adapter(digest)]


async def test_a_prompt_is_combined_with_the_weights_of_another_version(house) -> None:
    asker = publish(house, "asker", SHORT)
    adapters = [{"model": "asker"}, {"model": "a", "scale": 0.5}]
    body = {"model": "toy", "prompt": "x", "adapters": adapters}
    response = await house.post("/v1/completions", body)
    [asked] = house.decoder.generated
    assert asked.prompt_ids == house.ids("Q:x")
    assert asked.adapters == [Adapter(house.digest("a"), 0.5)]
    assert response.json()["system_fingerprint"] == f"{asker},{house.digest('a')}"


async def test_a_task_may_lead_to_a_prompt(house) -> None:
    digest = publish(house, "asker", SHORT)
    house.registry.set_route("local", "support", {"asker@prod": 1})
    response = await house.post("/v1/tasks/support", {"prompt": "x"})
    assert response.headers["x-rootstock-adapter"] == digest
    assert house.decoder.generated[0].prompt_ids == house.ids("Q:x")


async def test_heads_with_prompts_of_their_own_read_their_own_passes(house) -> None:
    spec = HeadSpec(pooling="mean", normalize=True, labels=("bad", "good"))
    head = NewPart(spec, save({"weight": np.ones((2, 4), "f4"), "bias": np.ones(2, "f4")}))
    asked = publish(house, "asked", SHORT, head, base="reader")
    body = {"models": ["mood", "asked"], "input": ["x", "yy"]}
    answer = (await house.post("/v1/classify", body)).json()
    digests = [house.digest("mood"), asked]
    assert [[r["digest"] for r in one["results"]] for one in answer["data"]] == [digests] * 2
    read = {(tuple(p.heads), tuple(p.prompt_ids)) for p in house.encoder.encoded}
    assert read == {
        ((digests[0],), tuple(house.ids("x"))),
        ((digests[0],), tuple(house.ids("yy"))),
        ((asked,), tuple(house.ids("Q:x"))),
        ((asked,), tuple(house.ids("Q:yy"))),
    }


async def test_embeddings_are_of_the_text_inside_the_template(house) -> None:
    publish(house, "asker", SHORT, base="reader")
    await house.post("/v1/embeddings", {"model": "asker", "input": "x"})
    assert house.encoder.encoded[0].prompt_ids == house.ids("Q:x")


async def test_token_ids_cannot_be_put_into_a_template(house) -> None:
    publish(house, "asker", SHORT)
    response = await house.post("/v1/completions", {"model": "asker", "prompt": [1, 2]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "prompt"
    assert "send text" in response.json()["error"]["message"]


@pytest.mark.parametrize("adapters", [[{"model": "asker"}, {"model": "other"}]])
async def test_a_request_takes_one_prompt(house, adapters) -> None:
    publish(house, "asker", SHORT)
    publish(house, "other", FULL)
    body = {"model": "toy", "prompt": "x", "adapters": adapters}
    error = (await house.post("/v1/completions", body)).json()["error"]
    assert error["param"] == "adapters[1].model"
    assert "part of kind prompt, and so has asker" in error["message"]
