"""Bad input: the right 4xx, OpenAI's error body, a message that names the field, no echo."""

from __future__ import annotations

import json

import pytest

LONG = "x" * 5000
CHAT = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "look"}}


def refused(response, status: int, param: str | None) -> dict:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param, error
    if param is not None and status == 400:
        assert param.split("[")[0].split(".")[0] in error["message"]
    assert LONG[:100] not in response.text
    return error


COMPLETIONS = [
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": LONG}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_tokens": 63}, "max_tokens"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ({"n": 0}, "n"),
    ({"n": 9}, "n"),
    ({"n": "2"}, "n"),
    ({"n": 8, "prompt": ["a"] * 9}, "n"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": -1}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"seed": 2**63}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"stop": ["a"] * 5}, "stop"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"stop": "a" * 65}, "stop"),
    ({"stop": 7}, "stop"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"usage": 1}}, "stream_options.usage"),
    ({"user": "u" * 257}, "user"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": ["a", 1]}, "prompt[1]"),
    ({"prompt": [1, "a"]}, "prompt[1]"),
    ({"prompt": [-1]}, "prompt[0]"),
    ({"prompt": [256]}, "prompt"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": [1.5]}, "prompt"),
    ({"prompt": [[1], []]}, "prompt[1]"),
    ({"prompt": [1] * 64}, "prompt"),
    ({"prompt": "x" * 65}, "prompt"),
    ({"prompt": ["a"] * 257}, "prompt"),
    ({"prompt": LONG}, "prompt"),
    ({"prompt": {"text": "a"}}, "prompt"),
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"model": "m" * 257}, "model"),
    ({"echo": True}, "echo"),
    ({"best_of": 2}, "best_of"),
    ({"suffix": "x"}, "suffix"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": "much"}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"min_p": 1.1}, "min_p"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": {"256": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias.-1.[key]"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ({"adapters": []}, "adapters"),
    ({"y" * 300: 1}, "y" * 128),
]


@pytest.mark.parametrize(("change", "param"), COMPLETIONS)
async def test_a_bad_completion_is_refused_by_the_name_of_its_field(house, change, param) -> None:
    response = await house.post("/v1/completions", {"model": "toy", "prompt": "hi", **change})
    refused(response, 400, param)
    assert not house.decoder.generated


CHATS = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages[0].content"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]},
     "messages[0].tool_calls[0].function"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
     "messages[0].content[0].type"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]},
     "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": "x" * 60}]}, "messages"),
    ({"max_completion_tokens": 64}, "max_completion_tokens"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": 1}, "logprobs"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": 1}}},
     "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_object"}, "ignore_eos": True}, "ignore_eos"),
    ({"response_format": {"type": "json_object"}, "tools": [TOOL]}, "response_format"),
    ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
     "response_format"),
    ({"structured_outputs": {}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs"),
    ({"structured_outputs": {"regex": "a" * 4097}}, "structured_outputs.regex"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"structured_outputs": {"json": "["}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": {"enum": ["x" * 100] * 700}}}, "structured_outputs.json"),
    ({"structured_outputs": {"grammar": "a"}}, "structured_outputs.grammar"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [TOOL, TOOL]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}],
      "tool_choice": "required"}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "sometimes"}, "tool_choice"),
    ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "b"}}},
     "tool_choice"),
    ({"prompt": "hi"}, "prompt"),
    ({"chat_template_kwargs": {}}, "chat_template_kwargs"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param"), CHATS)
async def test_a_bad_chat_is_refused_by_the_name_of_its_field(house, change, param) -> None:
    body = {"model": "toy", "messages": CHAT, **change}
    refused(await house.post("/v1/chat/completions", body), 400, param)
    assert not house.decoder.generated


OTHERS = [
    ("/v1/embeddings", {"model": "reader", "input": "a", "dimensions": 64}, "dimensions"),
    ("/v1/embeddings", {"model": "reader", "input": "a", "encoding_format": "hex"},
     "encoding_format"),
    ("/v1/embeddings", {"model": "reader", "input": "x" * 65}, "input"),
    ("/v1/embeddings", {"model": "reader", "input": [999]}, "input"),
    ("/v1/embeddings", {"model": "mood", "input": "a"}, "model"),
    ("/v1/classify", {"models": ["mood"]}, "input"),
    ("/v1/classify", {"input": "a", "models": []}, "models"),
    ("/v1/classify", {"input": "a", "models": ["mood"] * 17}, "models"),
    ("/v1/classify", {"input": ["a", 1], "models": ["mood"]}, "input[1]"),
    ("/v1/classify", {"input": ["a", ""], "models": ["mood"]}, "input"),
    ("/v1/classify", {"input": "a", "models": ["reader"]}, "models"),
    ("/v1/classify", {"input": "a", "models": ["mood", "both"]}, "models"),
    ("/v1/completions", {"model": "mood", "prompt": "a"}, "model"),
    ("/v1/completions", {"model": "reader", "prompt": "a"}, "model"),
    ("/v1/completions", {"model": "unserved", "prompt": "a"}, "model"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "param"), OTHERS)
async def test_a_request_that_does_not_fit_its_model_is_refused(house, path, body, param) -> None:
    refused(await house.post(path, body), 400, param)


async def test_a_wrong_base_is_told_by_both_names(house) -> None:
    response = await house.post("/v1/completions", {"model": "unserved", "prompt": "a"})
    error = refused(response, 400, "model")
    assert "elsewhere" in error["message"] and "toy" in error["message"]
    assert error["code"] == "adapter_mismatch"


@pytest.mark.parametrize("name", ["nobody", "a:9", "a@next", "../a", "a%00", "acme/own", "Ä", "a:"])
async def test_an_unknown_model_is_a_404_and_never_the_base(house, name: str) -> None:
    response = await house.post("/v1/completions", {"model": name, "prompt": "a"})
    error = refused(response, 404, "model")
    assert error["code"] == "model_not_found"
    assert not house.decoder.generated


RAW = [
    b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"{" * 10_000, b"[" * 10_000,
    b'{"model": "toy", "prompt": "hi", "temperature": NaN}',
    b'{"model": "toy", "prompt": "hi", "top_p": Infinity}',
    b'{"model": "toy", "prompt": "hi", "temperature": 1e999}',
    b'{"model": "toy", "prompt": "\\ud800"}',
]  # fmt: skip


@pytest.mark.parametrize("raw", RAW)
async def test_a_body_that_is_not_the_json_we_ask_for_is_a_400(house, raw: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = await house.http.post("/v1/completions", content=raw, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]
    assert not house.decoder.generated


async def test_a_page_of_another_site_cannot_post_a_form_to_us(house) -> None:
    """Browsers send text/plain anywhere without asking; only JSON's own type is read."""
    body = json.dumps({"model": "toy", "prompt": "hi"})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = await house.http.post(
            "/v1/completions", content=body, headers={"content-type": kind}
        )
        assert "content-type: application/json" in refused(response, 400, None)["message"]


async def test_a_route_that_does_not_exist_and_a_wrong_method_are_told_apart(house) -> None:
    assert (await house.http.get("/v1/nothing")).status_code == 404
    wrong = await house.http.get("/v1/completions")
    refused(wrong, 405, None)
    assert wrong.headers["allow"] == "POST"


class TestBodyCap:
    @pytest.fixture
    def settings(self) -> dict[str, object]:
        return {"no_auth": True, "limits": {"max_body_bytes": 1000}}

    async def test_a_body_is_refused_as_soon_as_it_is_too_large(self, house) -> None:
        async def endless():
            for _ in range(10_000):
                yield b"x" * 500

        response = await house.http.post("/v1/completions", content=endless())
        error = refused(response, 413, None)
        assert "1000 bytes" in error["message"]

    async def test_a_body_of_just_the_limit_is_read(self, house) -> None:
        body = json.dumps({"model": "toy", "prompt": "hi"}).encode()
        response = await house.http.post(
            "/v1/completions",
            content=body.ljust(1000),
            headers={"content-type": "application/json"},
        )
        assert response.status_code == 200
