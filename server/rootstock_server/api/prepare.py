"""From a validated request and its target to the engine's commands: token ids, limits, seeds.

What a single field may be, rootstock_wire has said; here is what depends on the base. Refuses to
know transports and tenants.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Sequence
from typing import Any

from rootstock_adapters.base_card import BaseCard
from rootstock_wire.fields import as_list
from rootstock_wire.openai import ChatBody, ChatMessage, CompletionBody
from rootstock_wire.structured import ToolCall, too_deep

from rootstock_server.api import structure, text2text, tools
from rootstock_server.api.stream import Row
from rootstock_server.api.target import Target
from rootstock_server.base.tokenizer import ChatTemplateError
from rootstock_server.engine.request import Generate, Grammar, Sampling
from rootstock_server.errors import AdapterMismatch, BadRequest

COMPLETION_TOKENS = 16  # OpenAI's default for completions
LARGEST_SEED = 2**63 - 1


def prompts(target: Target, body: CompletionBody | ChatBody) -> list[list[int]]:
    """The token ids of each prompt. Raises BadRequest, AdapterMismatch."""
    card = target.base.card
    if card.task == "encode":
        raise AdapterMismatch(
            f"model: {target.model} is on the encoder {target.base.card.name}, "
            "which generates no text; use /v1/classify or /v1/embeddings",
            param="model",
        )
    if target.head_only:
        raise AdapterMismatch(
            f"model: {target.model} has only a head; use it with /v1/classify", param="model"
        )
    text2text.check_languages(card, body)
    if card.task == "text2text":
        inputs, field = text2text.sources(card, target.base.tokenizer, body)
        begin = text2text.beginning(card, target.base.tokenizer, body)
        return [[*ids, *begin] for ids in encode(target, inputs, field)]
    if isinstance(body, CompletionBody):
        return encode(target, as_list(body.prompt), "prompt")
    try:
        messages = [_message(message) for message in body.messages]
        if target.prompt:
            messages = target.prompt.messages(messages)
        functions = [f.model_dump(exclude_none=True) for f in tools.offered(body)]
        known = [{"type": "function", "function": each} for each in functions]
        return [target.base.tokenizer.chat(messages, known)]
    except ChatTemplateError as error:
        raise BadRequest(str(error), param="messages") from error


def _message(message: ChatMessage) -> dict[str, Any]:
    """As chat templates read it."""
    # `developer` is OpenAI's newer word for the role that templates know as `system`.
    role = "system" if message.role == "developer" else message.role
    fields: dict[str, Any] = {"role": role, "content": message.text}
    if message.name:
        fields["name"] = message.name
    if message.tool_call_id:
        fields["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        fields["tool_calls"] = [_call(call) for call in message.tool_calls]
    return fields


def _call(call: ToolCall) -> dict[str, Any]:
    arguments: Any = call.function.arguments
    # Templates write the arguments as JSON themselves: most would quote a text once more.
    with contextlib.suppress(ValueError, RecursionError):
        read = json.loads(arguments)
        arguments = arguments if too_deep(read) else read
    function = {"name": call.function.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}


def encode(target: Target, inputs: Sequence[str | list[int]], param: str) -> list[list[int]]:
    """The token ids of each input, checked against the base. Raises BadRequest naming `param`."""
    card = target.base.card
    encoded = []
    for one in inputs:
        ids = _ids(target, one, param)
        if not ids:
            raise BadRequest(f"{param}: is empty, there is nothing to read", param=param)
        if not isinstance(one, str) and max(ids) >= card.vocab_size:
            raise BadRequest(
                f"{param}: token ids of {card.name} are below {card.vocab_size}", param=param
            )
        if len(ids) > target.room:
            raise BadRequest(
                f"{param}: has {len(ids)} tokens; {target.model} reads at most "
                f"{target.room}. Shorten it",
                param=param,
            )
        encoded.append(ids)
    return encoded


def _ids(target: Target, one: str | list[int], param: str) -> list[int]:
    if isinstance(one, str):
        return target.base.tokenizer.encode(target.prompt.text(one) if target.prompt else one)
    if target.prompt:
        raise BadRequest(
            f"{param}: {target.model} puts words around a text, which token ids are not; send text",
            param=param,
        )
    return one


def rows(target: Target, body: CompletionBody | ChatBody, ids: list[list[int]]) -> list[Row]:
    """One row per answer, `n` for each prompt, in the order of their indices.

    Answer i of a request with a seed draws from the seed plus i (modulo 2^63): the same in every
    batch and on every day, and different from its neighbours.
    """
    n = body.n or 1
    grammar = structure.grammar_of(body)
    begin: list[int] = []
    if target.base.card.task == "text2text":
        begin = text2text.beginning(target.base.card, target.base.tokenizer, body)
    made = []
    for index in range(len(ids) * n):
        prompt_ids = ids[index // n]
        source = len(prompt_ids) - len(begin) if begin else 0
        command = Generate(
            id=uuid.uuid4().hex,
            prompt_ids=prompt_ids,
            source=source,
            adapters=target.adapters,
            sampling=_sampling(target, body, prompt_ids[source:], index, grammar),
        )
        made.append(Row(index, command, body.stops))
    return made


def _sampling(
    target: Target,
    body: CompletionBody | ChatBody,
    prompt_ids: list[int],
    index: int,
    grammar: Grammar | None,
) -> Sampling:
    max_tokens = _max_tokens(target, body, len(prompt_ids))
    if body.min_tokens > max_tokens:
        raise BadRequest(
            f"min_tokens: is {body.min_tokens}, more than max_tokens ({max_tokens})",
            param="min_tokens",
        )
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=max(body.top_k, 0),  # vLLM's -1 is off, too
        min_p=body.min_p,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        repetition_penalty=body.repetition_penalty or 1.0,
        logit_bias=_logit_bias(target.base.card, body),
        seed=None if body.seed is None else (body.seed + index) & LARGEST_SEED,
        ignore_eos=body.ignore_eos,
        grammar=grammar,
        logprobs=_logprobs(body),
    )


def _logit_bias(card: BaseCard, body: CompletionBody | ChatBody) -> dict[int, float]:
    bias = {int(token): value for token, value in (body.logit_bias or {}).items()}
    if bias and max(bias) >= card.vocab_size:
        raise BadRequest(
            f"logit_bias: token ids of {card.name} are below {card.vocab_size}", param="logit_bias"
        )
    return bias


def _max_tokens(target: Target, body: CompletionBody | ChatBody, prompt_tokens: int) -> int:
    field, wanted = "max_tokens", body.max_tokens
    if isinstance(body, ChatBody) and body.max_completion_tokens is not None:
        field, wanted = "max_completion_tokens", body.max_completion_tokens
    room = target.room - prompt_tokens
    if room < 1:
        field = "prompt" if isinstance(body, CompletionBody) else "messages"
        raise BadRequest(
            f"{field}: has {prompt_tokens} tokens, which leaves no room for an answer in the "
            f"{target.room} tokens of {target.model}. Shorten it",
            param=field,
        )
    if wanted is None:
        return room if isinstance(body, ChatBody) else min(COMPLETION_TOKENS, room)
    if wanted > room:
        raise BadRequest(
            f"{field}: is {wanted}, but after a prompt of {prompt_tokens} tokens {target.model} "
            f"has room for {room}. Lower it, or shorten the prompt",
            param=field,
        )
    return wanted


def _logprobs(body: CompletionBody | ChatBody) -> int | None:
    if isinstance(body, CompletionBody):
        return body.logprobs
    if body.top_logprobs is not None and not body.logprobs:
        raise BadRequest("top_logprobs: needs `logprobs` to be true", param="top_logprobs")
    return (body.top_logprobs or 0) if body.logprobs else None
