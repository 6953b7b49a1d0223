"""OpenAI's messages as Rootstock speaks them: completions, chat, embeddings, models, errors.

Names and meanings are OpenAI's, with vLLM's extras (`top_k`, `min_p`, `repetition_penalty`,
`min_tokens`, `ignore_eos`, `structured_outputs`, `return_token_ids`), and the languages of a
translation. A `…Body` is a request without `model`, which a task's route fills in. Refuses to know
how an answer is made.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from rootstock_wire.fields import (
    Adapters,
    Answer,
    Ask,
    ModelName,
    Prompt,
    Text,
    User,
    at_most,
    only,
)
from rootstock_wire.structured import (
    MAX_TOOLS,
    CalledTool,
    ResponseFormat,
    StructuredOutputs,
    Tool,
    ToolCall,
    ToolChoice,
    ToolDelta,
)

MAX_N = 8
MAX_LOGPROBS = 20
MAX_STOPS = 4
MAX_STOP_CHARS = 64
MAX_BIASED_TOKENS = 1024
MAX_MESSAGES = 1024
MAX_METADATA = 16  # as OpenAI says

StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARS)]
Stop = Annotated[
    Annotated[StopText, Tag("text")]
    | Annotated[list[StopText], Field(max_length=MAX_STOPS), Tag("texts")]
    | Annotated[None, Tag("none")],
    Discriminator(lambda x: "none" if x is None else "texts" if isinstance(x, list) else "text"),
]
Language = Annotated[str, Field(min_length=2, max_length=16)]
# JSON has no integer keys: token ids come as text, as in OpenAI's requests.
BiasedToken = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
LogitBias = Annotated[
    dict[BiasedToken, Annotated[float, Field(ge=-100, le=100)]], at_most(MAX_BIASED_TOKENS)
]
FinishReason = Literal["stop", "length", "tool_calls"]


class StreamOptions(Ask):
    include_usage: bool = False
    include_obfuscation: bool = False


class GenerationBody(Ask):
    """What completions and chat share: how tokens are drawn, and how the answer is shaped."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: LogitBias | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop = None
    ignore_eos: bool = False
    return_token_ids: bool = False
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    structured_outputs: StructuredOutputs | None = None
    user: User | None = None
    source_lang: Language | None = None
    target_lang: Language | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionBody(GenerationBody):
    prompt: Prompt
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    best_of: Annotated[int | None, only(None, 1)] = None
    echo: Annotated[bool | None, only(None, False)] = None
    suffix: Annotated[str | None, only(None, "")] = None


class CompletionRequest(CompletionBody):
    model: ModelName
    adapters: Adapters | None = None


class ContentPart(Ask):
    type: Literal["text"]
    text: Text


class ChatMessage(Ask):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_TOOLS)] | None = None
    tool_call_id: Annotated[str, Field(max_length=128)] | None = None
    content: Annotated[
        Annotated[Text, Tag("text")]
        | Annotated[list[ContentPart], Field(min_length=1, max_length=64), Tag("parts")]
        | Annotated[None, Tag("none")],
        Discriminator(
            lambda x: "none" if x is None else "parts" if isinstance(x, list) else "text"
        ),
    ] = Field(default=None, validate_default=True)
    name: Annotated[str, Field(max_length=64)] | None = None

    # An answer of the SDK, dumped and sent back, carries these.
    annotations: Annotated[list[object] | None, only(None, [])] = None
    audio: Annotated[None, only(None)] = None
    function_call: Annotated[None, only(None)] = None
    refusal: Annotated[None, only(None)] = None

    @field_validator("content", mode="after")
    @classmethod
    def _said(
        cls, content: str | list[ContentPart] | None, info: ValidationInfo
    ) -> str | list[ContentPart] | None:
        if content is None and not info.data.get("tool_calls"):
            raise PydanticCustomError("missing", "is required")
        return content

    @property
    def text(self) -> str:
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)


class ChatBody(GenerationBody):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    # Accepted and not kept: they change nothing in an answer.
    metadata: Annotated[dict[str, str], at_most(MAX_METADATA)] | None = None
    store: Annotated[bool | None, only(None, False)] = None

    functions: Annotated[list[object] | None, only(None, [])] = None
    modalities: Annotated[list[str] | None, only(None, ["text"])] = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Annotated[str | None, only(None)] = None
    service_tier: Annotated[str | None, only(None, "auto", "default")] = None
    tool_choice: ToolChoice | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None


class ChatRequest(ChatBody):
    model: ModelName
    adapters: Adapters | None = None


class EmbeddingRequest(Ask):
    model: ModelName
    adapters: Adapters | None = None
    input: Prompt
    encoding_format: Literal["float", "base64"] = "float"
    user: User | None = None
    dimensions: Annotated[int | None, only(None)] = None


class Usage(Answer):
    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0


class CompletionLogprobs(Answer):
    """Parallel lists, one entry per token; `text_offset` in characters of the answer."""

    tokens: list[str] = Field(default_factory=list)
    token_logprobs: list[float] = Field(default_factory=list)
    top_logprobs: list[dict[str, float]] = Field(default_factory=list)
    text_offset: list[int] = Field(default_factory=list)


class CompletionChoice(Answer):
    index: int
    text: str
    finish_reason: FinishReason | None = None
    logprobs: CompletionLogprobs | None = None
    token_ids: list[int] | None = Field(default=None, exclude_if=lambda x: x is None)
    prompt_token_ids: list[int] | None = Field(default=None, exclude_if=lambda x: x is None)


class Completion(Answer):
    """The whole answer, or one event of a stream: both have this shape."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class TopLogprob(Answer):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob] = Field(default_factory=list)


class ChatLogprobs(Answer):
    content: list[TokenLogprob] = Field(default_factory=list)


class AssistantMessage(Answer):
    """`content` is None where there are only calls of tools."""

    role: Literal["assistant"] = "assistant"
    content: str | None = ""
    tool_calls: list[CalledTool] | None = Field(default=None, exclude_if=lambda x: x is None)


class ChatChoice(Answer):
    index: int
    message: AssistantMessage
    finish_reason: FinishReason
    logprobs: ChatLogprobs | None = None
    token_ids: list[int] | None = Field(default=None, exclude_if=lambda x: x is None)


class ChatCompletion(Answer):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_token_ids: list[int] | None = Field(default=None, exclude_if=lambda x: x is None)


class ChatDelta(Answer):
    role: Literal["assistant"] | None = Field(default=None, exclude_if=lambda x: x is None)
    content: str | None = Field(default=None, exclude_if=lambda x: x is None)
    tool_calls: list[ToolDelta] | None = Field(default=None, exclude_if=lambda x: x is None)


class ChunkChoice(Answer):
    index: int
    delta: ChatDelta
    finish_reason: FinishReason | None = None
    logprobs: ChatLogprobs | None = None
    token_ids: list[int] | None = Field(default=None, exclude_if=lambda x: x is None)


class ChatChunk(Answer):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = Field(default=None, exclude_if=lambda x: x is None)


class Embedding(Answer):
    """`embedding` is a list of floats, or the base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Embeddings(Answer):
    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    system_fingerprint: str
    usage: Usage


class ModelCard(Answer):
    """`root` is the digest or fingerprint that answers; `parent` is the base of an adapter."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str
    parent: str | None = None
    max_model_len: int


class ModelList(Answer):
    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorDetail(Answer):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(Answer):
    error: ErrorDetail
