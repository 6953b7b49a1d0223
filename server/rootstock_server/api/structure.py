"""From the fields that say what an answer must be to one grammar in llguidance's language.

Only writes it down: whether it can be compiled, the engine finds out before the first token.
Refuses to know tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llguidance import LLMatcher
from rootstock_wire.openai import ChatBody, CompletionBody
from rootstock_wire.structured import MAX_DEPTH, StructuredOutputs, too_deep

from rootstock_server.api import tools
from rootstock_server.engine.request import Grammar
from rootstock_server.errors import BadRequest

MAX_GRAMMAR_CHARS = 65_536
ANY_OBJECT = {"type": "object"}
# At most one space between items: weak models otherwise write white space until their tokens end.
LAYOUT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


def grammar_of(body: CompletionBody | ChatBody) -> Grammar | None:
    """What every answer to `body` must be; None where it may be anything. Raises BadRequest."""
    made = [
        Grammar(text=text, field=field)
        for field, text in (
            ("response_format", _of_response_format(body)),
            (_form(body.structured_outputs), _of_forms(body.structured_outputs)),
            ("tools", _of_tools(body)),
        )
        if text is not None
    ]
    with_tools = isinstance(body, ChatBody) and tools.offered(body)
    fields = [grammar.field for grammar in made]
    if made and with_tools and "tools" not in fields:
        fields.append("tools")
    if len(fields) > 1:
        raise BadRequest(
            f"{fields[0]}: cannot be combined with {fields[1]}; an answer has one form",
            param=fields[0],
        )
    if not made:
        return None
    [grammar] = made
    if len(grammar.text) > MAX_GRAMMAR_CHARS:
        raise BadRequest(
            f"{grammar.field}: is larger than {MAX_GRAMMAR_CHARS} characters", param=grammar.field
        )
    if body.ignore_eos:
        raise BadRequest(
            f"ignore_eos: cannot be combined with {grammar.field}, which says where to end",
            param="ignore_eos",
        )
    return grammar


def _of_response_format(body: CompletionBody | ChatBody) -> str | None:
    wanted = body.response_format if isinstance(body, ChatBody) else None
    if wanted is None or wanted.type == "text":
        return None
    schema = wanted.json_schema.schema_ if wanted.json_schema else ANY_OBJECT
    return _json(schema, "response_format")


def _form(wanted: StructuredOutputs | None) -> str:
    return f"structured_outputs.{wanted.form}" if wanted else "structured_outputs"


def _of_forms(wanted: StructuredOutputs | None) -> str | None:
    if wanted is None:
        return None
    if wanted.regex is not None:
        return str(LLMatcher.grammar_from_regex(wanted.regex))
    if wanted.choice is not None:
        # Lark's strings are JSON's.
        start = "start: " + " | ".join(json.dumps(choice) for choice in wanted.choice)
        return str(LLMatcher.grammar_from_lark(start))
    if wanted.json_object:
        return _json(ANY_OBJECT, _form(wanted))
    schema = wanted.json_schema
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            schema = None
    if not isinstance(schema, dict) or too_deep(schema):
        raise BadRequest(
            "structured_outputs.json: must be a JSON schema, an object or its text, nested at most "
            f"{MAX_DEPTH} deep",
            param="structured_outputs.json",
        )
    return _json(schema, "structured_outputs.json")


def _json(schema: Mapping[str, Any], field: str) -> str:
    try:
        return json.dumps({"grammars": [{"json_schema": {**schema, "x-guidance": LAYOUT}}]})
    except RecursionError:
        raise BadRequest(f"{field}: is nested too deeply", param=field) from None


def _of_tools(body: CompletionBody | ChatBody) -> str | None:
    """One call of one of the tools, where the request demands a call."""
    if not isinstance(body, ChatBody):
        return None
    start, rules = [], []
    for number, function in enumerate(tools.demanded(body)):
        schema = {"type": "object", **tools.parameters(function), "x-guidance": LAYOUT}
        if schema["type"] != "object":
            raise BadRequest(
                f"tools: the parameters of {function.name} must have the type object", param="tools"
            )
        start.append(f"call_{number}")
        rules.append(
            f'call_{number}: {json.dumps(tools.head(function.name))} arguments_{number} "}}"\n'
            f"arguments_{number}: %json {json.dumps(schema)}"
        )
    if not start:
        return None
    return str(LLMatcher.grammar_from_lark("\n".join([f"start: {' | '.join(start)}", *rules])))
