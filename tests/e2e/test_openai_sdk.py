"""The `openai` SDK, unmodified, against real weights behind a real socket."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import torch
from peft import PeftModel
from rootstock_registry import Registry
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

PROMPT = "the quick brown"
CHAT = [{"role": "user", "content": "hello"}]
PET = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "legs": {"enum": [2, 4]}},
    "required": ["name", "legs"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "feed", "description": "a pet", "parameters": PET}},
    {"type": "function", "function": {"name": "rest"}},
]


@pytest.fixture(scope="module")
def client(server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def digests(server) -> dict[str, str]:
    registry = Registry(server.home)
    names = ("loud", "calm", "mood", "kind")
    found = {name: registry.resolve("local", name).digest for name in names}
    found |= {name: registry.base(name).fingerprint for name in ("tiny", "reader")}
    registry.close()
    return found


def reference(tiny: dict[str, Path], adapter: str | None, ids: list[int], count: int) -> list[int]:
    """Greedy continuation by transformers and PEFT, alone."""
    model = AutoModelForCausalLM.from_pretrained(tiny["tiny"])
    if adapter:
        model = PeftModel.from_pretrained(model, tiny[adapter])
    out = list(ids)
    with torch.inference_mode():
        for _ in range(count):
            logits = model(input_ids=torch.tensor([out])).logits[0, -1]
            out.append(int(logits.argmax()))
    return out[len(ids) :]


def test_models_can_be_listed_and_retrieved(client, digests) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["tiny", "reader", "calm", "kind", "loud", "mood"]
    card = client.models.retrieve("loud")
    assert (card.id, card.root, card.parent) == ("loud", digests["loud"], "tiny")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


@pytest.mark.parametrize("model", ["tiny", "loud", "calm"])
def test_a_completion_is_what_transformers_and_peft_say(client, tiny, digests, model) -> None:
    ids = AutoTokenizer.from_pretrained(tiny["tiny"])(PROMPT)["input_ids"]
    answer = client.completions.create(
        model=model, prompt=PROMPT, max_tokens=12, temperature=0,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )  # fmt: skip
    expected = reference(tiny, None if model == "tiny" else model, ids, 12)
    assert answer.choices[0].token_ids == expected
    assert answer.choices[0].prompt_token_ids == ids
    assert answer.system_fingerprint == digests[model]
    assert answer.usage.completion_tokens == 12


def test_the_two_adapters_and_the_base_answer_differently(client) -> None:
    texts = {
        client.completions.create(model=model, prompt=PROMPT, max_tokens=12, temperature=0)
        .choices[0]
        .text
        for model in ("tiny", "loud", "calm")
    }
    assert len(texts) == 3


def test_a_streamed_completion_is_the_whole_one_in_pieces(client) -> None:
    asked = {"model": "loud", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**asked)
    pieces = list(client.completions.create(**asked, stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == whole.choices[0].text
    assert pieces[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_chat_and_its_stream_agree_and_count_tokens(client, digests) -> None:
    asked = {"model": "calm", "messages": CHAT, "max_tokens": 10, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    stream = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert whole.choices[0].message.role == "assistant"
    assert last.usage == whole.usage
    assert {chunk.system_fingerprint for chunk in chunks} == {digests["calm"]}


def test_an_answer_can_be_sent_back_as_a_message(client) -> None:
    first = client.chat.completions.create(model="tiny", messages=CHAT, max_tokens=3)
    again = client.chat.completions.create(
        model="tiny",
        messages=[*CHAT, first.choices[0].message.model_dump(), {"role": "user", "content": "x"}],
        max_tokens=3,
    )
    assert again.choices[0].finish_reason in ("stop", "length")


def test_a_seed_repeats_and_n_gives_different_answers(client) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 12, "temperature": 1.5, "n": 3}
    one = [choice.text for choice in client.completions.create(**asked, seed=5).choices]
    two = [choice.text for choice in client.completions.create(**asked, seed=5).choices]
    assert one == two
    assert len(set(one)) == 3


def test_logprobs_are_the_references(client, tiny) -> None:
    answer = client.chat.completions.create(
        model="tiny", messages=CHAT, max_tokens=3, temperature=0, logprobs=True, top_logprobs=2
    )
    tokens = answer.choices[0].logprobs.content
    ids = AutoTokenizer.from_pretrained(tiny["tiny"]).apply_chat_template(
        CHAT, add_generation_prompt=True
    )["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(tiny["tiny"])
    with torch.inference_mode():
        logprobs = model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    assert tokens[0].logprob == pytest.approx(float(logprobs.max()), abs=1e-4)
    best = [entry.logprob for entry in tokens[0].top_logprobs]
    assert best == pytest.approx(logprobs.topk(2).values.tolist(), abs=1e-4)


def test_every_answer_fits_its_json_schema(client) -> None:
    answer = client.chat.completions.create(
        model="loud", messages=CHAT, n=4, seed=3, temperature=1.0, max_tokens=400,
        response_format={"type": "json_schema", "json_schema": {"name": "pet", "schema": PET}},
    )  # fmt: skip
    texts = [choice.message.content for choice in answer.choices]
    for text in texts:
        pet = json.loads(text)
        assert list(pet) == ["name", "legs"]
        assert len(pet["name"]) <= 8 and pet["legs"] in (2, 4)
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}
    assert len(set(texts)) == 4


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": "[a-f]{4}/[0-9]{2}"}, "[a-f]{4}/[0-9]{2}"),
        ({"choice": ['so "so"', "ü\n"]}, '(so "so"|ü\n)'),
        ({"json": {"enum": ["a", 1]}}, '("a"|1)'),
    ],
)
def test_an_answer_takes_the_form_that_is_asked(client, form, pattern) -> None:
    for model in ("tiny", "loud"):
        answer = client.completions.create(
            model=model, prompt=PROMPT, max_tokens=60, seed=1,
            extra_body={"structured_outputs": form},
        )  # fmt: skip
        assert re.fullmatch(pattern, answer.choices[0].text), answer.choices[0].text
        assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("field", ["regex", "json"])
def test_what_cannot_be_a_grammar_is_refused_by_name_even_for_a_stream(client, field) -> None:
    form = {field: {"regex": "(", "json": {"type": "wat"}}[field]}
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(
            model="tiny", prompt=PROMPT, stream=True, extra_body={"structured_outputs": form}
        )
    assert caught.value.param == f"structured_outputs.{field}"


def test_a_demanded_tool_is_called_whole_and_streamed(client) -> None:
    asked = {"model": "calm", "messages": CHAT, "tools": TOOLS, "max_tokens": 400, "seed": 2}
    answer = client.chat.completions.create(**asked, tool_choice="required")
    [call] = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    arguments = json.loads(call.function.arguments)
    assert call.function.name in ("feed", "rest")
    assert set(arguments) == ({"name", "legs"} if call.function.name == "feed" else set())
    named = {"type": "function", "function": {"name": "feed"}}
    whole = client.chat.completions.create(**asked, tool_choice=named)
    chunks = list(client.chat.completions.create(**asked, tool_choice=named, stream=True))
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or []]
    text = "".join(part.function.arguments for part in parts)
    assert text == whole.choices[0].message.tool_calls[0].function.arguments
    assert set(json.loads(text)) == {"name", "legs"}
    assert (parts[0].function.name, chunks[-1].choices[0].finish_reason) == ("feed", "tool_calls")
    again = client.chat.completions.create(
        model="calm", max_tokens=3, tools=TOOLS,
        messages=[*CHAT, whole.choices[0].message.model_dump(),
                  {"role": "tool", "tool_call_id": parts[0].id, "content": "done"}],
    )  # fmt: skip
    assert again.choices[0].finish_reason in ("stop", "length")


def test_a_seeded_answer_is_the_same_alone_and_among_others(client, server) -> None:
    fields = {"min_p": 0.01, "repetition_penalty": 1.2, "ignore_eos": True}
    asked = {
        "model": "loud", "prompt": PROMPT, "max_tokens": 24, "temperature": 1.1, "seed": 11,
        "frequency_penalty": 0.4, "presence_penalty": 0.2, "logit_bias": {"40": 2},
        "extra_body": fields,
    }  # fmt: skip
    alone = client.completions.create(**asked).choices[0].text

    async def among_others() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as many:
            others = [asked | {"seed": seed, "model": model}
                      for seed in range(4) for model in ("tiny", "calm")]  # fmt: skip
            every = [*others[:4], asked, *others[4:]]
            answers = await asyncio.gather(*(many.completions.create(**one) for one in every))
        return [answer.choices[0].text for answer in answers]

    texts = asyncio.run(among_others())
    assert texts[4] == alone
    assert len(set(texts)) > 5


def test_a_penalty_and_a_bias_change_a_greedy_answer_as_they_should(client) -> None:
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 16, "temperature": 0}
    token = 40
    more = {"return_token_ids": True, "ignore_eos": True}
    biased = client.completions.create(**asked, logit_bias={str(token): 100}, extra_body=more)
    assert biased.choices[0].token_ids == [token] * 16
    once = client.completions.create(
        **asked, logit_bias={str(token): 2}, presence_penalty=2, frequency_penalty=2,
        extra_body=more | {"repetition_penalty": 50},
    )  # fmt: skip
    assert len(set(once.choices[0].token_ids)) == 16


def test_embeddings_are_the_encoders_own(client, tiny, digests) -> None:
    texts = ["hello world", "the lazy dog says"]
    answer = client.embeddings.create(model="reader", input=texts)
    tokenizer, model = (
        AutoTokenizer.from_pretrained(tiny["reader"]),
        AutoModel.from_pretrained(tiny["reader"], add_pooling_layer=False),
    )
    for text, entry in zip(texts, answer.data, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        expected = torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy()
        np.testing.assert_allclose(entry.embedding, expected, atol=1e-4)
    assert answer.model_extra["system_fingerprint"] == digests["reader"]
    floats = client.embeddings.create(model="reader", input=texts, encoding_format="float")
    np.testing.assert_allclose(floats.data[0].embedding, answer.data[0].embedding, atol=1e-6)


def test_a_decoder_and_its_adapters_embed_too(client) -> None:
    base = client.embeddings.create(model="tiny", input="hello").data[0].embedding
    changed = client.embeddings.create(model="loud", input="hello").data[0].embedding
    assert len(base) == len(changed) == 64
    assert not np.allclose(base, changed, atol=1e-3)


def test_the_digest_is_in_the_header(client, digests) -> None:
    raw = client.completions.with_raw_response.create(model="loud", prompt=PROMPT, max_tokens=1)
    assert raw.headers["x-rootstock-adapter"] == digests["loud"]


REFUSED = [
    ({"model": "nobody"}, openai.NotFoundError, "model"),
    ({"model": "mood"}, openai.BadRequestError, "model"),
    ({"temperature": -1}, openai.BadRequestError, "temperature"),
    ({"max_tokens": 10_000}, openai.BadRequestError, "max_tokens"),
    ({"prompt": "fox " * 3000}, openai.BadRequestError, "prompt"),
    ({"prompt": [99_999]}, openai.BadRequestError, "prompt"),
    ({"extra_body": {"grammar": "x"}}, openai.BadRequestError, "grammar"),
]


@pytest.mark.parametrize(("change", "error", "param"), REFUSED)
def test_refusals_become_the_sdks_exceptions(client, change, error, param) -> None:
    with pytest.raises(error) as caught:
        client.completions.create(**{"model": "tiny", "prompt": PROMPT} | change)
    assert caught.value.param == param
    assert param in caught.value.message


def test_embedding_dimensions_are_refused_by_name(client) -> None:
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="reader", input="x", dimensions=8)


async def test_many_callers_at_once_each_get_their_own_answer(server, client) -> None:
    def asked(model: str) -> dict:
        return {"model": model, "prompt": PROMPT, "max_tokens": 10, "temperature": 0}

    alone = {m: client.completions.create(**asked(m)).choices[0].text for m in ("tiny", "loud")}
    many = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)
    async with many:
        models = ["tiny", "loud"] * 6
        answers = await asyncio.gather(*(many.completions.create(**asked(m)) for m in models))
    assert [answer.choices[0].text for answer in answers] == [alone[m] for m in models]
