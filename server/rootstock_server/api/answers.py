"""A generation's events in OpenAI's shapes: whole answers and the chunks of a stream.

Refuses to know how they are framed and sent.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from rootstock_wire.openai import (
    AssistantMessage,
    ChatBody,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChunkChoice,
    Completion,
    CompletionBody,
    CompletionChoice,
    CompletionLogprobs,
    FinishReason,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from rootstock_wire.structured import CalledFunction, CalledTool, FunctionDelta, ToolDelta

from rootstock_server.api import tools
from rootstock_server.api.handle import Begun
from rootstock_server.api.stream import Delta, Score, ScoredToken


class Envelope:
    """What every chunk of one answer repeats."""

    def __init__(self, begun: Begun, prefix: str) -> None:
        self.begun = begun
        self.id = f"{prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = begun.target.model
        self.digest = begun.target.made_by

    def prompt_ids(self, answer: int, answers_per_prompt: int) -> list[int]:
        return self.begun.prompt_ids[answer // answers_per_prompt]

    def usage(self, completion_tokens: int) -> Usage:
        prompt_tokens = self.begun.prompt_tokens
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            total_tokens=prompt_tokens + completion_tokens,
        )


@dataclass
class Collected:
    """One answer put together from its deltas."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    scored: list[ScoredToken] = field(default_factory=list)
    finish_reason: str | None = None


async def collect(begun: Begun, n: int, batches: AsyncIterator[Sequence[Delta]]) -> list[Collected]:
    """All answers of a generation, in the order of their indices."""
    answers = [Collected() for _ in range(len(begun.prompt_ids) * n)]
    async for deltas in batches:
        for delta in deltas:
            answer = answers[delta.index]
            answer.text += delta.text
            answer.token_ids.append(delta.token_id)
            if delta.scored is not None:
                answer.scored.append(delta.scored)
            answer.finish_reason = delta.finish_reason
    return answers


def completion(begun: Begun, body: CompletionBody, answers: Sequence[Collected]) -> Completion:
    envelope = Envelope(begun, "cmpl")
    n = body.n or 1
    choices = [
        CompletionChoice(
            index=index,
            text=answer.text,
            finish_reason=cast(FinishReason, answer.finish_reason),
            logprobs=_completion_logprobs(body, answer.scored, 0),
            token_ids=answer.token_ids if body.return_token_ids else None,
            prompt_token_ids=envelope.prompt_ids(index, n) if body.return_token_ids else None,
        )
        for index, answer in enumerate(answers)
    ]
    return _completion(envelope, choices, envelope.usage(_made(answers)))


def chat_completion(begun: Begun, body: ChatBody, answers: Sequence[Collected]) -> ChatCompletion:
    envelope = Envelope(begun, "chatcmpl")
    reader = tools.reader_for(body)
    choices = [_chat_choice(body, index, each, reader()) for index, each in enumerate(answers)]
    return ChatCompletion(
        id=envelope.id,
        created=envelope.created,
        model=envelope.model,
        system_fingerprint=envelope.digest,
        choices=choices,
        usage=envelope.usage(_made(answers)),
        prompt_token_ids=begun.prompt_ids[0] if body.return_token_ids else None,
    )


def _chat_choice(body: ChatBody, index: int, answer: Collected, reader: tools.Reader) -> ChatChoice:
    said = reader.push(answer.text, answer.finish_reason)
    calls: list[CalledTool] = []
    for part in said.calls:
        if part.id is not None and part.name is not None:
            function = CalledFunction(name=part.name, arguments=part.arguments)
            calls.append(CalledTool(id=part.id, function=function))
        else:
            begun = calls[part.index].function
            whole = begun.model_copy(update={"arguments": begun.arguments + part.arguments})
            calls[part.index] = calls[part.index].model_copy(update={"function": whole})
    content = None if calls and not said.text.strip() else said.text
    return ChatChoice(
        index=index,
        message=AssistantMessage(content=content, tool_calls=calls or None),
        finish_reason=cast(FinishReason, said.finish_reason),
        logprobs=_chat_logprobs(body, answer.scored),
        token_ids=answer.token_ids if body.return_token_ids else None,
    )


class CompletionChunks:
    """A completion's stream: one chunk per delta that says something."""

    def __init__(self, begun: Begun, body: CompletionBody) -> None:
        self._body = body
        self._envelope = Envelope(begun, "cmpl")
        self._offsets: dict[int, int] = {}
        self._made = 0

    def opening(self) -> list[Completion]:
        return []

    def of(self, delta: Delta) -> Completion | None:
        body, index = self._body, delta.index
        self._made += 1
        first = index not in self._offsets
        offset = self._offsets.get(index, 0)
        self._offsets[index] = offset + len(delta.scored.drawn.text if delta.scored else "")
        if _silent(body, delta, delta.text):
            return None
        ids = body.return_token_ids
        begins = ids and first
        choice = CompletionChoice(
            index=index,
            text=delta.text,
            finish_reason=cast(FinishReason, delta.finish_reason),
            logprobs=_completion_logprobs(body, _listed(delta.scored), offset),
            token_ids=[delta.token_id] if ids else None,
            prompt_token_ids=self._envelope.prompt_ids(index, body.n or 1) if begins else None,
        )
        return _completion(self._envelope, [choice], None)

    def closing(self) -> list[Completion]:
        if not self._body.include_usage:
            return []
        return [_completion(self._envelope, [], self._envelope.usage(self._made))]


class ChatChunks:
    """A chat completion's stream: who speaks, then one chunk per delta that says something."""

    def __init__(self, begun: Begun, body: ChatBody) -> None:
        self._body = body
        self._envelope = Envelope(begun, "chatcmpl")
        reader = tools.reader_for(body)
        self._readers = [reader() for _ in range(body.n or 1)]
        self._made = 0

    def opening(self) -> list[ChatChunk]:
        chunks = []
        for index in range(len(self._readers)):
            speaker = ChunkChoice(index=index, delta=ChatDelta(role="assistant", content=""))
            told = self._body.return_token_ids and index == 0
            prompt_ids = self._envelope.begun.prompt_ids[0] if told else None
            chunks.append(_chat_chunk(self._envelope, [speaker], prompt_token_ids=prompt_ids))
        return chunks

    def of(self, delta: Delta) -> ChatChunk | None:
        self._made += 1
        said = self._readers[delta.index].push(delta.text, delta.finish_reason)
        if _silent(self._body, delta, said.text or said.calls):
            return None
        calls = [_tool_delta(part) for part in said.calls]
        choice = ChunkChoice(
            index=delta.index,
            delta=ChatDelta(content=said.text or None, tool_calls=calls or None),
            finish_reason=cast(FinishReason, said.finish_reason),
            logprobs=_chat_logprobs(self._body, _listed(delta.scored)),
            token_ids=[delta.token_id] if self._body.return_token_ids else None,
        )
        return _chat_chunk(self._envelope, [choice])

    def closing(self) -> list[ChatChunk]:
        if not self._body.include_usage:
            return []
        return [_chat_chunk(self._envelope, [], usage=self._envelope.usage(self._made))]


def _made(answers: Sequence[Collected]) -> int:
    return sum(len(answer.token_ids) for answer in answers)


def _listed(scored: ScoredToken | None) -> list[ScoredToken]:
    return [scored] if scored is not None else []


def _tool_delta(part: tools.CallPart) -> ToolDelta:
    return ToolDelta(
        index=part.index,
        id=part.id,
        type="function" if part.id is not None else None,
        function=FunctionDelta(name=part.name, arguments=part.arguments),
    )


def _silent(body: CompletionBody | ChatBody, delta: Delta, said: object) -> bool:
    """Whether a chunk for this delta, of which `said` is told, would say nothing."""
    wanted = body.return_token_ids or delta.scored is not None
    return not (said or delta.finish_reason or wanted)


def _completion(
    envelope: Envelope, choices: list[CompletionChoice], usage: Usage | None
) -> Completion:
    return Completion(
        id=envelope.id,
        created=envelope.created,
        model=envelope.model,
        system_fingerprint=envelope.digest,
        choices=choices,
        usage=usage,
    )


def _chat_chunk(
    envelope: Envelope,
    choices: list[ChunkChoice],
    *,
    usage: Usage | None = None,
    prompt_token_ids: list[int] | None = None,
) -> ChatChunk:
    return ChatChunk(
        id=envelope.id,
        created=envelope.created,
        model=envelope.model,
        system_fingerprint=envelope.digest,
        choices=choices,
        usage=usage,
        prompt_token_ids=prompt_token_ids,
    )


def _completion_logprobs(
    body: CompletionBody, scored: Sequence[ScoredToken], offset: int
) -> CompletionLogprobs | None:
    if body.logprobs is None:
        return None
    offsets = []
    for each in scored:
        offsets.append(offset)
        offset += len(each.drawn.text)
    return CompletionLogprobs(
        tokens=[each.drawn.text for each in scored],
        token_logprobs=[each.drawn.logprob for each in scored],
        # As in vLLM the drawn token is listed, too, where it is not among the best.
        top_logprobs=[
            {each.drawn.text: each.drawn.logprob} | {x.text: x.logprob for x in each.best}
            for each in scored
        ],
        text_offset=offsets,
    )


def _chat_logprobs(body: ChatBody, scored: Sequence[ScoredToken]) -> ChatLogprobs | None:
    if not body.logprobs:
        return None
    return ChatLogprobs(
        content=[
            TokenLogprob(
                **_top(each.drawn).model_dump(),
                top_logprobs=[_top(best) for best in each.best],
            )
            for each in scored
        ]
    )


def _top(score: Score) -> TopLogprob:
    return TopLogprob(token=score.text, logprob=score.logprob, bytes=list(score.text.encode()))
