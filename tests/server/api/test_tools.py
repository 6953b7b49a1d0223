"""Tools over HTTP: what the model is told, what it is held to, and the calls in its answer."""

from __future__ import annotations

import json
import random

import pytest
from rootstock_server.api.tools import ChosenCalls, DemandedCall, Reader, Said

MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": {"properties": {"at": {}}}}},
    {"type": "function", "function": {"name": "wait"}},
]
CALL = '{"name": "look", "arguments": {"at": "a}"}}'
BODY = {"model": "toy", "messages": MESSAGES, "max_tokens": 44}


def events(response) -> list[dict]:
    lines = [line for line in response.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]", response.text
    return [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-1]]


def put_together(chunks: list[dict]) -> tuple[str, list[dict]]:
    """Content and calls of a stream, as OpenAI's SDK puts them together."""
    content, calls = "", []
    for chunk in chunks:
        content += chunk["delta"].get("content") or ""
        for part in chunk["delta"].get("tool_calls") or []:
            if part["index"] == len(calls):
                calls.append({"id": part["id"], "name": part["function"]["name"], "arguments": ""})
                assert part["type"] == "function"
            calls[part["index"]]["arguments"] += part["function"]["arguments"]
    return content, calls


@pytest.fixture
def talks(house):
    """The toy's template says nothing of its own here: the context has only 64 tokens."""
    house.decoder.stops_itself = True
    return house


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
async def test_a_demanded_call_is_the_whole_answer(talks, choice) -> None:
    talks.decoder.says = CALL
    body = BODY | {"tools": TOOLS, "tool_choice": choice, "max_tokens": 44}
    response = await talks.post("/v1/chat/completions", body)
    answer = response.json()["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"]["content"] is None
    [call] = answer["message"]["tool_calls"]
    assert call["function"] == {"name": "look", "arguments": '{"at": "a}"}'}
    assert call["id"].startswith("call_") and call["type"] == "function"
    grammar = talks.decoder.generated[0].sampling.grammar
    assert grammar.field == "tools"
    names = {"look", "wait"} if choice == "required" else {"look"}
    assert {name for name in ("look", "wait") if name in grammar.text} == names


async def test_a_demanded_call_streams_its_arguments_as_they_come(talks) -> None:
    talks.decoder.says = CALL
    body = BODY | {"tools": TOOLS, "tool_choice": "required", "max_tokens": 44, "stream": True}
    chunks = events(await talks.post("/v1/chat/completions", body))
    content, [call] = put_together(chunks)
    assert (content, call["name"], call["arguments"]) == ("", "look", '{"at": "a}"}')
    assert chunks[-1]["finish_reason"] == "tool_calls"
    assert len([chunk for chunk in chunks if chunk["delta"].get("tool_calls")]) > 5


async def test_a_demanded_call_that_was_cut_short_says_so(talks) -> None:
    talks.decoder.says = CALL
    body = BODY | {"tools": TOOLS, "tool_choice": "required", "max_tokens": 38}
    choice = (await talks.post("/v1/chat/completions", body)).json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == CALL[30:38]


async def test_a_call_of_the_models_own_choice_is_found_in_its_text(talks) -> None:
    talks.decoder.says = '<tool_call>{"name": "wait"}</tool_call>'
    for stream in (False, True):
        body = BODY | {"tools": TOOLS, "max_tokens": 44, "stream": stream}
        response = await talks.post("/v1/chat/completions", body)
        assert talks.decoder.generated[-1].sampling.grammar is None
        if stream:
            chunks = events(response)
            content, [call] = put_together(chunks)
            assert (content, call["name"], call["arguments"]) == ("", "wait", "{}")
            assert chunks[-1]["finish_reason"] == "tool_calls"
        else:
            choice = response.json()["choices"][0]
            assert choice["finish_reason"] == "tool_calls"
            assert choice["message"]["content"] is None
            assert choice["message"]["tool_calls"][0]["function"]["name"] == "wait"


async def test_without_tools_or_with_none_marks_are_text(talks) -> None:
    talks.decoder.says = "<tool_call>{}</tool_call>"
    for more in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        answer = (await talks.post("/v1/chat/completions", BODY | {"max_tokens": 40} | more)).json()
        message = answer["choices"][0]["message"]
        assert message == {"role": "assistant", "content": "<tool_call>{}</tool_call>"}
        assert answer["choices"][0]["finish_reason"] == "stop"


def read(reader: Reader, pieces: list[str], finish: str = "stop") -> tuple[str, list, str]:
    said = [reader.push(piece, None) for piece in pieces] + [reader.push("", finish)]
    calls: list[list] = []
    for part in (part for each in said for part in each.calls):
        if part.index == len(calls):
            calls.append([part.name, ""])
        calls[part.index][1] += part.arguments
    reason = said[-1].finish_reason
    assert reason is not None
    return "".join(each.text for each in said), [tuple(call) for call in calls], reason


HERMES = [
    ("plain <tool text < and >", "plain <tool text < and >", [], "stop"),
    ('a<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>', "a",
     [("f", '{"x": 1}')], "tool_calls"),
    ('<tool_call>{"name": "f"}</tool_call>\n<tool_call>{"name": "g"}</tool_call>\n', "",
     [("f", "{}"), ("g", "{}")], "tool_calls"),
    ('<tool_call>{"name": "f"}', "", [("f", "{}")], "tool_calls"),
    ('<tool_call>{"name": "unknown"}</tool_call>', '<tool_call>{"name": "unknown"}</tool_call>',
     [], "stop"),
    ("<tool_call>{not json</tool_call>b", "<tool_call>{not json</tool_call>b", [], "stop"),
    ('<tool_call>{"name": "f", "arguments": 3}</tool_call>',
     '<tool_call>{"name": "f", "arguments": 3}</tool_call>', [], "stop"),
    ("<tool_call>[1]", "<tool_call>[1]", [], "stop"),
    ("ends in <tool_c", "ends in <tool_c", [], "stop"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "content", "calls", "reason"), HERMES)
def test_any_way_of_cutting_a_text_gives_the_same_calls(text, content, calls, reason) -> None:
    rng = random.Random(0)
    for _ in range(40):
        cuts = sorted(rng.choices(range(len(text) + 1), k=5))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert read(ChosenCalls(["f", "g"], one=False), pieces) == (content, calls, reason)


def test_one_call_at_most_where_parallel_ones_are_not_wanted() -> None:
    text = '<tool_call>{"name": "f"}</tool_call><tool_call>{"name": "g"}</tool_call>'
    assert read(ChosenCalls(["f", "g"], one=True), [text]) == ("", [("f", "{}")], "tool_calls")


def test_any_way_of_cutting_a_demanded_call_gives_the_same() -> None:
    rng = random.Random(0)
    for _ in range(60):
        cuts = sorted(rng.choices(range(len(CALL) + 1), k=5))
        pieces = [CALL[i:j] for i, j in zip([0, *cuts], [*cuts, len(CALL)], strict=True)]
        told = read(DemandedCall(["wait", "look"]), pieces)
        assert told == ("", [("look", '{"at": "a}"}')], "tool_calls")


def test_a_demanded_call_cut_before_its_arguments_is_text() -> None:
    reader = DemandedCall(["look"])
    assert reader.push('{"name": "lo', None) == Said()
    assert reader.push("", "length") == Said('{"name": "lo', (), "length")


@pytest.mark.parametrize("arguments", ["{}", "[" * 450 + "]" * 450, "no JSON"])
async def test_a_conversation_with_calls_goes_through_the_template(talks, arguments) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": arguments}}
    messages = [
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "sun"},
    ]
    body = {"model": "toy", "messages": messages, "max_tokens": 4}
    assert (await talks.post("/v1/chat/completions", body)).status_code == 200
    assert talks.decoder.generated[0].prompt_ids == talks.ids("<assistant><tool>sun<assistant>")


FORMS = [
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}},
     "response_format"),
    ({"structured_outputs": {"regex": "a/b"}}, "structured_outputs.regex"),
    ({"structured_outputs": {"choice": ['a"', "b"]}}, "structured_outputs.choice"),
    ({"structured_outputs": {"json": {"type": "integer"}}}, "structured_outputs.json"),
    ({"structured_outputs": {"json": '{"type": "integer"}'}}, "structured_outputs.json"),
    ({"structured_outputs": {"json_object": True}}, "structured_outputs.json_object"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "field"), FORMS)
async def test_every_form_becomes_a_grammar_that_names_its_field(talks, fields, field) -> None:
    assert (await talks.post("/v1/chat/completions", BODY | fields | {"n": 2})).status_code == 200
    grammars = {asked.sampling.grammar for asked in talks.decoder.generated}
    assert [grammar.field for grammar in grammars] == [field]
