"""`rootstock.v1` messages to the request models that every door shares, and answers back.

The limits are those models'. Refuses to know connections, keys and engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rootstock_wire.native import Classification, ClassifyBody, ClassifyRequest
from rootstock_wire.openai import (
    ChatBody,
    ChatRequest,
    CompletionBody,
    CompletionRequest,
    EmbeddingRequest,
)
from rootstock_wire.v1 import inference_pb2 as pb

from rootstock_server.api.stream import Delta, Score, ScoredToken

# Fields of the same name and meaning on both sides, absent unless given.
_SAMPLING = (
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "min_tokens",
    "ignore_eos",
    "user",
    "source_lang",
    "target_lang",
)


def generation(request: pb.GenerateRequest) -> CompletionBody | ChatBody:
    """A chat where the prompt is one, a completion of text or token ids otherwise.

    Raises pydantic's ValidationError, as do all of these.
    """
    fields = _given(request, _SAMPLING)
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.logit_bias:
        fields["logit_bias"] = {str(token): bias for token, bias in request.logit_bias.items()}
    if request.HasField("structured_outputs"):
        fields["structured_outputs"] = _form(request.structured_outputs)
    fields |= _adapters(request)
    by_task = request.HasField("task")
    if not by_task:
        fields |= _given(request, ["model"])
    if request.HasField("chat"):
        fields["messages"] = [{"role": m.role, "content": m.content} for m in request.chat.messages]
        if request.HasField("logprobs"):
            fields |= {"logprobs": True, "top_logprobs": request.logprobs}
        return (ChatBody if by_task else ChatRequest).model_validate(fields)
    fields |= _given(request, ["logprobs"])
    if request.HasField("text"):
        fields["prompt"] = request.text
    elif request.HasField("token_ids"):
        fields["prompt"] = list(request.token_ids.ids)
    return (CompletionBody if by_task else CompletionRequest).model_validate(fields)


def _form(wanted: pb.StructuredOutputs) -> dict[str, Any]:
    form = wanted.WhichOneof("form")
    if form is None:
        return {}
    return {form: list(wanted.choice.choices) if form == "choice" else getattr(wanted, form)}


def classification(request: pb.ClassifyRequest) -> ClassifyBody:
    """A ClassifyRequest with its models, or the body of a task."""
    fields = {"input": list(request.input), **_given(request, ["user"]), **_adapters(request)}
    if request.models or not request.HasField("task"):
        fields["models"] = list(request.models)
    return (ClassifyBody if request.HasField("task") else ClassifyRequest).model_validate(fields)


def embedding(request: pb.EmbedRequest) -> EmbeddingRequest:
    fields = {"model": request.model, "input": list(request.input), **_given(request, ["user"])}
    fields |= _adapters(request)
    return EmbeddingRequest.model_validate(fields)


def _given(request: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(request, name) for name in names if request.HasField(name)}


def _adapters(request: Any) -> dict[str, Any]:
    uses = [{"model": use.model, **_given(use, ["scale"])} for use in request.adapters]
    return {"adapters": uses} if uses else {}


def generated(head: pb.GenerateResponse, delta: Delta, usage: pb.Usage) -> pb.GenerateResponse:
    """The piece that `delta` adds to the answer that `head` begins; `usage` goes with the last."""
    piece = pb.GenerateResponse(
        id=head.id,
        model=head.model,
        digest=head.digest,
        text=delta.text,
        token_ids=[delta.token_id],
        logprobs=[_logprob(delta.scored)] if delta.scored else [],
    )
    if delta.finish_reason:
        piece.finish_reason = delta.finish_reason
        piece.usage.CopyFrom(usage)
    return piece


def _logprob(scored: ScoredToken) -> pb.TokenLogprob:
    return pb.TokenLogprob(
        token=scored.drawn.text,
        logprob=scored.drawn.logprob,
        top=[_top(score) for score in scored.best],
    )


def _top(score: Score) -> pb.TopLogprob:
    return pb.TopLogprob(token=score.text, logprob=score.logprob)


def classified(answer: Classification) -> pb.ClassifyResponse:
    data = [
        pb.Classification(
            index=text.index,
            results=[pb.HeadResult(**result.model_dump()) for result in text.results],
        )
        for text in answer.data
    ]
    return pb.ClassifyResponse(data=data, usage=usage(answer.usage.prompt_tokens))


def usage(prompt_tokens: int, completion_tokens: int = 0) -> pb.Usage:
    return pb.Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )
