"""Completions and chat over HTTP: shapes, streams, stop strings, digests, and leaving early."""

from __future__ import annotations

import asyncio
import json
import time

import httpx
from rootstock_server.engine.request import Adapter
from rootstock_server.errors import CorruptAdapter, DeadlineExceeded, Overloaded


def events(response: httpx.Response) -> list[dict]:
    """The JSON of each server-sent event; the stream must end with `[DONE]`."""
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


async def test_a_completion_names_the_base_that_made_it(house) -> None:
    response = await house.post("/v1/completions", {"model": "toy", "prompt": "hi"})
    answer = response.json()
    fingerprint = house.decoder.card.fingerprint
    assert response.headers["x-rootstock-adapter"] == fingerprint
    assert answer["system_fingerprint"] == fingerprint
    assert answer["object"] == "text_completion"
    assert answer["choices"][0] == {
        "index": 0, "text": "hello world", "finish_reason": "length", "logprobs": None,
    }  # fmt: skip
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 11, "total_tokens": 13}
    assert house.decoder.generated[0].adapters == []


async def test_an_adapter_is_resolved_once_and_named_by_its_digest(house) -> None:
    digest = house.digest("a")
    for name in ("a", "a:1", "a@prod", "local/a"):
        response = await house.post("/v1/completions", {"model": name, "prompt": "hi"})
        assert response.json()["model"] == name
        assert response.json()["system_fingerprint"] == digest
        assert response.headers["x-rootstock-adapter"] == digest
        assert house.decoder.generated[-1].adapters == [Adapter(digest)]


async def test_a_stream_says_the_same_as_the_whole_answer(house) -> None:
    body = {"model": "a", "prompt": "hi", "max_tokens": 7}
    whole = (await house.post("/v1/completions", body)).json()
    streamed = await house.post(
        "/v1/completions", body | {"stream": True, "stream_options": {"include_usage": True}}
    )
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.headers["x-rootstock-adapter"] == house.digest("a")
    *chunks, usage = events(streamed)
    assert "".join(c["choices"][0]["text"] for c in chunks) == whole["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]
    assert {chunk["id"] for chunk in chunks} == {usage["id"]}


async def test_chat_uses_the_bases_template_and_fills_the_context(house) -> None:
    messages = [{"role": "developer", "content": [{"type": "text", "text": "short"}]}]
    body = {"model": "toy", "messages": [*messages, {"role": "user", "content": "hi"}]}
    answer = (await house.post("/v1/chat/completions", body)).json()
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "hello world"}
    asked = house.decoder.generated[0]
    assert asked.prompt_ids == house.ids("<system>short<user>hi<assistant>")
    assert asked.sampling.max_tokens == 64 - len(asked.prompt_ids)


async def test_a_chat_stream_begins_with_the_role_and_ends_with_the_reason(house) -> None:
    body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    chunks = events(await house.post("/v1/chat/completions", body))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks)
    assert text == "hello world"


async def test_a_stop_string_ends_the_text_before_it_and_frees_the_row(house) -> None:
    body = {"model": "toy", "prompt": "hi", "stop": ["wor", "xyz"]}
    answer = (await house.post("/v1/completions", body)).json()
    assert answer["choices"][0]["text"] == "hello "
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert house.decoder.cancelled == [house.decoder.generated[0].id]


async def test_a_stream_never_shows_part_of_a_stop_string(house) -> None:
    body = {"model": "toy", "prompt": "hi", "stop": "lo w", "stream": True}
    chunks = events(await house.post("/v1/completions", body))
    assert "".join(c["choices"][0]["text"] for c in chunks) == "hel"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_stop_strings_wait_for_min_tokens(house) -> None:
    body = {"model": "toy", "prompt": "hi", "stop": "l", "min_tokens": 5}
    answer = (await house.post("/v1/completions", body)).json()
    assert answer["choices"][0]["text"] == "hello wor"


async def test_characters_of_several_tokens_come_whole(house) -> None:
    house.decoder.says = "aé🦊z"
    body = {"model": "toy", "prompt": "hi", "stream": True}
    chunks = events(await house.post("/v1/completions", body))
    assert [c["choices"][0]["text"] for c in chunks] == ["a", "é", "🦊", "z"]


async def test_prompts_and_n_answer_in_order_with_their_own_seeds(house) -> None:
    body = {"model": "toy", "prompt": ["one", "three"], "n": 2, "seed": 7, "max_tokens": 2}
    answer = (await house.post("/v1/completions", body)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    asked = sorted(house.decoder.generated, key=lambda each: each.sampling.seed)
    assert [each.sampling.seed for each in asked] == [7, 8, 9, 10]
    assert [each.prompt_ids for each in asked] == [house.ids("one")] * 2 + [house.ids("three")] * 2
    assert answer["usage"] == {"prompt_tokens": 8, "completion_tokens": 8, "total_tokens": 16}


async def test_token_ids_go_in_and_come_out_as_in_vllm(house) -> None:
    body = {"model": "toy", "prompt": [3, 1, 2], "return_token_ids": True, "max_tokens": 3}
    choice = (await house.post("/v1/completions", body)).json()["choices"][0]
    assert choice["prompt_token_ids"] == [3, 1, 2]
    assert choice["token_ids"] == house.ids("hel")
    chunks = events(await house.post("/v1/completions", body | {"stream": True}))
    assert chunks[0]["choices"][0]["prompt_token_ids"] == [3, 1, 2]
    assert "prompt_token_ids" not in chunks[1]["choices"][0]
    assert [c["choices"][0]["token_ids"] for c in chunks] == [[i] for i in house.ids("hel")]


async def test_sampling_fields_reach_the_engine_as_they_are(house) -> None:
    body = {
        "model": "toy", "prompt": "hi", "temperature": 0, "top_p": 0.5, "top_k": 4, "seed": -1,
        "min_tokens": 1, "ignore_eos": True, "logprobs": 2, "min_p": 0.1, "presence_penalty": -1,
        "frequency_penalty": 0.5, "repetition_penalty": 1.1, "logit_bias": {"7": -100, "255": 2.5},
    }  # fmt: skip
    await house.post("/v1/completions", body)
    sampling = house.decoder.generated[0].sampling
    assert (sampling.min_p, sampling.presence_penalty, sampling.frequency_penalty) == (0.1, -1, 0.5)
    assert (sampling.repetition_penalty, sampling.logit_bias) == (1.1, {7: -100, 255: 2.5})
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.0, 0.5, 4)
    assert (sampling.min_tokens, sampling.ignore_eos, sampling.logprobs) == (1, True, 2)
    assert sampling.max_tokens == 16
    assert sampling.seed is not None and sampling.seed >= 0


async def test_logprobs_have_openais_shapes(house) -> None:
    body = {"model": "toy", "prompt": "hi", "logprobs": 2, "max_tokens": 2}
    logprobs = (await house.post("/v1/completions", body)).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["h", "e"]
    assert logprobs["token_logprobs"] == [-0.5, -0.5]
    assert logprobs["text_offset"] == [0, 1]
    assert logprobs["top_logprobs"][0]["h"] == -0.5
    chat = {
        "model": "toy", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1,
        "logprobs": True, "top_logprobs": 1,
    }  # fmt: skip
    content = (await house.post("/v1/chat/completions", chat)).json()["choices"][0]["logprobs"]
    best = {"token": "h", "logprob": -0.5, "bytes": [104]}
    assert content == {"content": [best | {"top_logprobs": [best]}]}


async def test_values_that_change_nothing_are_accepted(house) -> None:
    body = {
        "model": "toy", "messages": [{"role": "user", "content": "hi"}], "presence_penalty": 0,
        "frequency_penalty": 0.0, "logit_bias": {}, "n": 1, "response_format": {"type": "text"},
        "tools": None, "tool_choice": "none", "store": False, "metadata": {"a": "b"},
    }  # fmt: skip
    assert (await house.post("/v1/chat/completions", body)).status_code == 200


async def test_a_refusal_of_the_engine_keeps_its_status_even_for_a_stream(house) -> None:
    house.decoder.refusal = Overloaded("the queue is full; try again in a moment")
    response = await house.post("/v1/completions", {"model": "toy", "prompt": "hi", "stream": True})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    assert response.json()["error"]["code"] == "overloaded"


async def test_an_engine_that_fails_in_a_stream_ends_it_with_an_error_event(house) -> None:
    house.decoder.at = 3
    house.decoder.refusal = CorruptAdapter("the stored bytes have changed")
    response = await house.post("/v1/completions", {"model": "a", "prompt": "hi", "stream": True})
    assert response.status_code == 200
    rest = [line for line in response.text.split("\n\n") if line]
    assert len(rest) == 4
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "corrupt_adapter"


async def test_leaving_a_stream_cancels_all_its_rows(house) -> None:
    house.decoder.pause = asyncio.Event()
    body = {"model": "a", "prompt": "hi", "stream": True, "n": 3}
    asking = asyncio.create_task(house.post("/v1/completions", body))
    await house.eventually(lambda: len(house.decoder.generated) == 3)
    assert house.handle.in_flight == 1
    asking.cancel()
    await house.eventually(lambda: len(house.decoder.cancelled) == 3)
    await house.eventually(lambda: house.handle.in_flight == 0)


async def test_leaving_in_the_middle_of_a_stream_cancels_it(house) -> None:
    house.decoder.at, house.decoder.pause = 3, asyncio.Event()
    body = {"model": "toy", "prompt": "hi", "stream": True}
    async with house.http.stream("POST", "/v1/completions", json=body) as response:
        await anext(response.aiter_lines())
        assert not house.decoder.cancelled
    await house.eventually(lambda: house.handle.in_flight == 0)
    await house.eventually(lambda: house.decoder.cancelled)


async def test_leaving_an_answer_that_does_not_stream_cancels_it_too(house) -> None:
    house.decoder.pause = asyncio.Event()
    asking = asyncio.create_task(house.post("/v1/completions", {"model": "toy", "prompt": "hi"}))
    await house.eventually(lambda: house.decoder.generated)
    asking.cancel()
    await house.eventually(lambda: house.decoder.cancelled)
    await house.eventually(lambda: house.handle.in_flight == 0)


async def test_stopping_ends_a_stream_with_an_error_event_not_with_silence(house) -> None:
    house.decoder.at, house.decoder.pause = 3, asyncio.Event()
    body = {"model": "toy", "prompt": "hi", "stream": True}
    async with house.http.stream("POST", "/v1/completions", json=body) as response:
        lines = response.aiter_lines()
        await anext(lines)
        house.handle.draining = True
        house.handle.interrupt()
        rest = [line async for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "overloaded"
    refused = await house.post("/v1/completions", {"model": "toy", "prompt": "hi"})
    assert refused.status_code == 503


async def test_a_request_takes_its_tenants_turn_until_its_deadline(house) -> None:
    """By a clock that nobody sets: one that jumps by a day ends no request, and keeps none."""
    before = time.monotonic()
    await house.post("/v1/completions", {"model": "toy", "prompt": "hi"})
    await house.post("/v1/embeddings", {"model": "reader", "input": "hi"})
    for command in (house.decoder.generated[0], house.encoder.encoded[0]):
        assert command.owner == "local"
        assert before + 599 < command.deadline < time.monotonic() + 601


async def test_an_answer_that_comes_too_late_is_a_504(house) -> None:
    house.decoder.refusal = DeadlineExceeded("the request's deadline is past")
    response = await house.post("/v1/completions", {"model": "toy", "prompt": "hi"})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
