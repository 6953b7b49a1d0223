"""Tools: which of them a request demands, and which calls an answer's text holds.

A demanded call (`tool_choice` required or a name) is the whole answer, held by a grammar to
`{"name": NAME, "arguments": ARGUMENTS}`. A call of the model's own choice (auto) stands in the
text as `<tool_call>` that JSON `</tool_call>`, as templates in the manner of Hermes teach it.
Refuses to know tokens and transports.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rootstock_wire.openai import ChatBody
from rootstock_wire.structured import Function, NamedTool

from rootstock_server.errors import BadRequest

OPEN, CLOSE = "<tool_call>", "</tool_call>"
NO_PARAMETERS: Mapping[str, Any] = {"properties": {}, "additionalProperties": False}


def offered(body: ChatBody) -> list[Function]:
    """The tools that the model is told of and may call. Raises BadRequest."""
    if body.tool_choice == "none":
        return []
    functions = [tool.function for tool in body.tools or []]
    if len({function.name for function in functions}) < len(functions):
        raise BadRequest("tools: two of them have the same name", param="tools")
    if not functions and body.tool_choice not in (None, "auto"):
        raise BadRequest("tool_choice: needs `tools` to choose from", param="tool_choice")
    return functions


def demanded(body: ChatBody) -> list[Function]:
    """The tools of which one must be called; none where a call is the model's own choice."""
    functions = offered(body)
    if isinstance(body.tool_choice, NamedTool):
        name = body.tool_choice.function.name
        functions = [function for function in functions if function.name == name]
        if not functions:
            raise BadRequest(
                "tool_choice: names a function that is not among `tools`", param="tool_choice"
            )
        return functions
    return functions if body.tool_choice == "required" else []


def parameters(function: Function) -> Mapping[str, Any]:
    return NO_PARAMETERS if function.parameters is None else function.parameters


def head(name: str) -> str:
    """How a demanded call begins; its arguments and a closing brace follow."""
    return f'{{"name": {json.dumps(name)}, "arguments": '


@dataclass(frozen=True)
class CallPart:
    """A piece of call number `index`; its first one has `id` and `name`."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class Said:
    """What a piece of text comes to: text for the caller, and pieces of calls."""

    text: str = ""
    calls: tuple[CallPart, ...] = ()
    finish_reason: str | None = None


class Reader(Protocol):
    """Reads one answer's text, piece by piece; `finish_reason` comes with the last piece."""

    def push(self, text: str, finish_reason: str | None) -> Said: ...


def reader_for(body: ChatBody) -> Callable[[], Reader]:
    """Makes the reader of one answer to `body`."""
    names = [function.name for function in offered(body)]
    if forced := [function.name for function in demanded(body)]:
        return lambda: DemandedCall(forced)
    if names:
        return lambda: ChosenCalls(names, one=body.parallel_tool_calls is False)
    return PlainText


class PlainText:
    def push(self, text: str, finish_reason: str | None) -> Said:
        return Said(text, (), finish_reason)


class DemandedCall:
    """The answer is one call: its arguments go out as they come, all but the closing brace."""

    def __init__(self, names: Sequence[str]) -> None:
        self._heads = {head(name): name for name in names}
        self._text = ""
        self._sent: int | None = None  # characters, once the head is there

    def push(self, text: str, finish_reason: str | None) -> Said:
        self._text += text
        calls = []
        if self._sent is None:
            begun = next((x for x in self._heads if self._text.startswith(x)), None)
            if begun is not None:
                self._sent = len(begun)
                calls.append(CallPart(0, "", _new_id(), self._heads[begun]))
        whole = finish_reason is not None and _parsed(self._text) is not None
        if self._sent is None:
            return Said(self._text if finish_reason else "", (), finish_reason)
        # The last character may be the brace that closes the call; cut short, it is the caller's.
        end = len(self._text) - (0 if finish_reason and not whole else 1)
        if end > self._sent:
            calls.append(CallPart(0, self._text[self._sent : end]))
            self._sent = end
        return Said("", tuple(calls), "tool_calls" if whole else finish_reason)


class ChosenCalls:
    """Text with calls between marks. What only looks like a call stays text."""

    def __init__(self, names: Sequence[str], *, one: bool) -> None:
        self._names, self._one = frozenset(names), one
        self._held = ""
        self._inside = False
        self._made = 0

    def push(self, text: str, finish_reason: str | None) -> Said:
        self._held += text
        said: list[str] = []
        calls: list[CallPart] = []
        while (place := self._held.find(CLOSE if self._inside else OPEN)) >= 0:
            before = self._held[:place]
            self._held = self._held[place + len(CLOSE if self._inside else OPEN) :]
            if self._inside:
                self._take(before, CLOSE, said, calls)
            else:
                said.append(before)
            self._inside = not self._inside
        if finish_reason and self._inside:
            self._take(self._held, "", said, calls)  # the model may end without the closing mark
            self._held = ""
        elif not self._inside:
            certain = len(self._held) if finish_reason else len(self._held) - _begun(self._held)
            said.append(self._held[:certain])
            self._held = self._held[certain:]
        told = "".join(said)
        if self._made and told.isspace():
            told = ""  # the line breaks between calls
        called = self._made and finish_reason == "stop"
        return Said(told, tuple(calls), "tool_calls" if called else finish_reason)

    def _take(self, body: str, close: str, said: list[str], calls: list[CallPart]) -> None:
        call = _parsed(body)
        arguments = call.get("arguments", {}) if call else None
        if call is None or call.get("name") not in self._names or not isinstance(arguments, dict):
            said.append(f"{OPEN}{body}{close}")
        elif not (self._one and self._made):
            text = json.dumps(arguments, ensure_ascii=False)
            calls.append(CallPart(self._made, text, _new_id(), call["name"]))
            self._made += 1


def _begun(text: str) -> int:
    """The length of the longest end of `text` that is the beginning of an opening mark."""
    lengths = range(min(len(text), len(OPEN) - 1), 0, -1)
    return next((n for n in lengths if OPEN.startswith(text[-n:])), 0)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
