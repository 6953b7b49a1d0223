"""Classify, embeddings, tasks, models, probes and metrics over HTTP."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections import Counter

from prometheus_client.parser import text_string_to_metric_families
from rootstock_server.engine.request import Adapter
from rootstock_server.errors import Overloaded


async def test_heads_of_one_base_share_a_pass_and_are_answered_by_name(house) -> None:
    response = await house.post(
        "/v1/classify", {"input": ["abc", "abcde"], "models": ["mood", "kind", "mood@prod"]}
    )
    answer = response.json()
    mood, kind = house.digest("mood"), house.digest("kind")
    assert response.headers["x-rootstock-adapter"] == f"{mood},{kind}"
    assert answer["object"] == "list"
    assert [each["index"] for each in answer["data"]] == [0, 1]
    results = answer["data"][1]["results"]
    assert [(r["model"], r["digest"]) for r in results] == [
        ("mood", mood), ("kind", kind), ("mood@prod", mood),
    ]  # fmt: skip
    good = 1 / (1 + math.exp(-5))
    assert results[0]["label"] == "good"
    assert math.isclose(results[0]["score"], good) and results[0]["score"] < 1
    assert math.isclose(results[0]["probs"]["bad"], 1 - good)
    assert answer["usage"]["prompt_tokens"] == 8
    # Two passes for each text: the base's own for `mood`, and that of `kind`, which changes it.
    passes = Counter(
        (tuple(a.version for a in each.adapters), tuple(each.heads))
        for each in house.encoder.encoded
    )
    assert passes == {((), (mood,)): 2, ((kind,), (kind,)): 2}


async def test_leaving_a_classification_cancels_its_passes(house) -> None:
    house.encoder.pause = asyncio.Event()
    body = {"input": ["a", "b", "c"], "models": ["mood"]}
    asking = asyncio.create_task(house.post("/v1/classify", body))
    await house.eventually(lambda: len(house.encoder.encoded) == 3)
    asking.cancel()
    await house.eventually(lambda: len(house.encoder.cancelled) == 3)
    await house.eventually(lambda: house.handle.in_flight == 0)


async def test_one_failed_pass_fails_the_classification_and_cancels_the_others(house) -> None:
    house.encoder.refusal = Overloaded("the queue is full")
    body = {"input": ["a", "b"], "models": ["mood"]}
    assert (await house.post("/v1/classify", body)).status_code == 503
    assert house.handle.in_flight == 0


async def test_embeddings_are_floats_or_base64_of_the_same_floats(house) -> None:
    body = {"model": "reader", "input": ["ab", "abc"]}
    floats = (await house.post("/v1/embeddings", body)).json()
    packed = (await house.post("/v1/embeddings", body | {"encoding_format": "base64"})).json()
    assert [each["embedding"] for each in floats["data"]] == [
        [2.0, 0.5, -1.0, 0.0], [3.0, 0.5, -1.0, 0.0],
    ]  # fmt: skip
    for one, other in zip(floats["data"], packed["data"], strict=True):
        assert list(struct.unpack("<4f", base64.b64decode(other["embedding"]))) == one["embedding"]
    assert floats["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}
    assert floats["system_fingerprint"] == house.encoder.card.fingerprint


async def test_an_adapter_embeds_with_its_own_pass(house) -> None:
    response = await house.post("/v1/embeddings", {"model": "a", "input": [1, 2]})
    digest = house.digest("a")
    assert response.headers["x-rootstock-adapter"] == digest
    assert house.decoder.encoded[0].adapters == [Adapter(digest)]
    assert house.decoder.encoded[0].prompt_ids == [1, 2]


async def test_a_task_is_asked_in_any_dialect_and_names_the_version_that_answered(house) -> None:
    house.registry.set_route("local", "reply", {"a:1": 1})
    house.registry.set_route("local", "mood", {"mood@prod": 1})
    digest = house.digest("a")
    for body in ({"prompt": "hi"}, {"messages": [{"role": "user", "content": "hi"}]}):
        response = await house.post("/v1/tasks/reply", body)
        assert response.json()["system_fingerprint"] == digest
        assert response.json()["model"] == "a:1"
    response = await house.post("/v1/tasks/mood", {"input": "hi"})
    assert response.json()["data"][0]["results"][0]["model"] == "mood@prod"
    assert response.headers["x-rootstock-adapter"] == house.digest("mood")


async def test_a_task_splits_users_by_weight_and_keeps_each_where_it_is(house) -> None:
    house.registry.set_route("local", "reply", {"a@prod": 70, "b@prod": 30})

    async def asked(user: str) -> str:
        body = {"prompt": "hi", "user": user, "max_tokens": 1}
        return (await house.post("/v1/tasks/reply", body)).json()["model"]

    first = [await asked(f"u{number}") for number in range(40)]
    assert first == [await asked(f"u{number}") for number in range(40)]
    assert set(first) == {"a@prod", "b@prod"}


async def test_a_target_that_cannot_be_served_gives_way_to_the_fallback(house) -> None:
    house.registry.set_route("local", "reply", {"unserved": 1}, fallback="b")
    answer = (await house.post("/v1/tasks/reply", {"prompt": "hi"})).json()
    assert answer["system_fingerprint"] == house.digest("b")


async def test_an_unknown_task_is_a_404_and_a_body_without_a_dialect_a_400(house) -> None:
    house.registry.set_route("acme", "theirs", {"own": 1})
    for task in ("nothing", "theirs", "Ä", "x" * 100):
        response = await house.post(f"/v1/tasks/{task}", {"prompt": "hi"})
        assert response.status_code == 404
    for body in ({}, {"prompt": "a", "input": "b"}, []):
        response = await house.post("/v1/tasks/reply", body)
        assert response.status_code == 400
        assert "messages (chat), prompt" in response.json()["error"]["message"]
    response = await house.post("/v1/tasks/reply", {"prompt": "a", "model": "b"})
    assert response.json()["error"]["param"] == "model"


async def test_models_lists_only_names_that_can_be_asked(house) -> None:
    house.registry.promote("local", "b:1", "next")
    listed = (await house.http.get("/v1/models")).json()["data"]
    names = [card["id"] for card in listed]
    assert names[:2] == ["toy", "reader"]
    assert set(names[2:]) == {"a", "b", "both", "mood", "kind"}
    assert listed[0]["parent"] is None and listed[0]["max_model_len"] == 64
    for name in (*names, "a:1", "b@next", "local/a"):
        card = (await house.http.get(f"/v1/models/{name}")).json()
        assert card["id"] == name
    assert (await house.http.get("/v1/models/nobody")).status_code == 404


async def test_probes_follow_the_engines_and_the_drain(house) -> None:
    async def codes() -> tuple[int, int, int]:
        paths = ("/livez", "/readyz", "/health")
        answers = [await house.http.get(path) for path in paths]
        assert all(answer.content == b"" for answer in answers)
        return tuple(answer.status_code for answer in answers)

    assert await codes() == (200, 200, 200)
    house.handle.draining = True
    assert await codes() == (200, 503, 503)
    house.handle.draining = False
    house.encoder.living = False
    assert await codes() == (503, 503, 503)
    house.encoder.living, house.encoder.heartbeat = True, None
    assert await codes() == (200, 503, 503)


async def test_metrics_say_what_gateways_read_and_what_was_asked(house) -> None:
    house.decoder.pause = asyncio.Event()
    asking = asyncio.create_task(house.post("/v1/completions", {"model": "a", "prompt": "hi"}))
    await house.eventually(lambda: house.decoder.generated)
    families = await _families(house)
    assert families["vllm:num_requests_running"] == {("toy",): 2.0, ("reader",): 2.0}
    assert families["vllm:num_requests_waiting"][("toy",)] == 1.0
    assert families["vllm:kv_cache_usage_perc"][("toy",)] == 0.25
    waiting = house.digest("a").removeprefix("sha256:")[:12]
    ((labels, value),) = families["vllm:lora_requests_info"].items()
    assert labels == ("64", "ab" * 6, waiting)
    assert value > 1.7e9
    house.decoder.pause.set()
    await asking
    families = await _families(house)
    assert families["rootstock_requests"][("/v1/completions", "200")] == 1.0
    assert families["rootstock_tokens"][("toy", "prompt")] == 2.0
    assert families["rootstock_tokens"][("toy", "completion")] == 11.0


async def _families(house) -> dict[str, dict[tuple[str, ...], float]]:
    text = (await house.http.get("/metrics")).text
    return {
        family.name: {
            tuple(sample.labels.values()): sample.value
            for sample in family.samples
            if not sample.name.endswith("_created")
        }
        for family in text_string_to_metric_families(text)
    }
