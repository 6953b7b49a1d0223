"""The HTTP door from Python, for code with an event loop.

It refuses to know limits: requests go out as they are given and the server judges them, so that a
client never disagrees with its server. Answers come back as the models of `rootstock_wire`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import Discriminator, Tag, TypeAdapter, ValidationError
from rootstock_wire.native import Classification
from rootstock_wire.openai import (
    ChatCompletion,
    Completion,
    Embeddings,
    ErrorBody,
    ErrorDetail,
    ModelList,
)
from rootstock_wire.registry import PEFT_FILES, AdapterVersionDetail

from rootstock_client.errors import ApiError, RootstockClientError, Unreachable
from rootstock_client.streaming import TextStream

Message = Mapping[str, Any]
TaskAnswer = ChatCompletion | Completion | Classification

_T = TypeVar("_T")
_MODELS = TypeAdapter(ModelList)
_COMPLETION = TypeAdapter(Completion)
_CHAT = TypeAdapter(ChatCompletion)
_EMBEDDINGS = TypeAdapter(Embeddings)
_VERSION = TypeAdapter(AdapterVersionDetail)
_CLASSIFICATION = TypeAdapter(Classification)
_TASK_ANSWER: TypeAdapter[TaskAnswer] = TypeAdapter(
    Annotated[
        Annotated[ChatCompletion, Tag("chat.completion")]
        | Annotated[Completion, Tag("text_completion")]
        | Annotated[Classification, Tag("list")],
        Discriminator(lambda answer: answer.get("object") if isinstance(answer, dict) else None),
    ]
)


class AsyncClient:
    """Speaks HTTP with the server at `base_url`, for example `http://127.0.0.1:8000`.

    Every method raises `ApiError` when the server refuses, `Unreachable` when nothing comes from it
    for `timeout_s` seconds. `options` are the other fields of OpenAI's request, `max_tokens`,
    `temperature`, `stop` and so on. Answers name their version's digest as `system_fingerprint`.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, *, timeout_s: float = 120.0
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, 5.0))
        self._http = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=timeout)

    async def models(self) -> ModelList:
        """The bases and adapters that this key may ask."""
        return await self._answer(_MODELS, "GET", "/v1/models")

    async def complete(
        self, /, model: str, prompt: str | Sequence[int] | Sequence[str], **options: Any
    ) -> Completion:
        """Continues `prompt`: one text, several, or the token ids of one."""
        body = {"model": model, "prompt": prompt, **options}
        return await self._answer(_COMPLETION, "POST", "/v1/completions", body)

    async def chat(
        self, /, model: str, messages: Sequence[Message], **options: Any
    ) -> ChatCompletion:
        """The assistant's next message."""
        body = {"model": model, "messages": messages, **options}
        return await self._answer(_CHAT, "POST", "/v1/chat/completions", body)

    async def stream_chat(
        self, /, model: str, messages: Sequence[Message], **options: Any
    ) -> TextStream:
        """The assistant's next message, piece by piece. A refusal is raised here, before any."""
        shape = {"stream": True, "stream_options": {"include_usage": True}}
        body = {"model": model, "messages": messages, **shape, **options}
        response = await self._send("POST", "/v1/chat/completions", body, stream=True)
        return TextStream(response)

    async def embed(self, /, model: str, input: str | Sequence[str], **options: Any) -> Embeddings:
        """One embedding per input."""
        body = {"model": model, "input": input, **options}
        return await self._answer(_EMBEDDINGS, "POST", "/v1/embeddings", body)

    async def classify(
        self, /, input: str | Sequence[str], models: Sequence[str], **options: Any
    ) -> Classification:
        """The answer of every head in `models` to every input."""
        body = {"input": input, "models": models, **options}
        return await self._answer(_CLASSIFICATION, "POST", "/v1/classify", body)

    async def task(self, /, task: str, **body: Any) -> TaskAnswer:
        """Asks whichever version the task's route chooses, with `messages`, `prompt` or `input`."""
        return await self._answer(_TASK_ANSWER, "POST", f"/v1/tasks/{quote(task, safe='')}", body)

    async def import_peft(
        self, /, name: str, folder: Path, *, base: str | None = None, promote: str | None = None
    ) -> AdapterVersionDetail:
        """Make the folder that PEFT saved a version of the adapter `name`, for `base` where its
        files fit several; `promote` is an alias to move to it. Raises OSError where one of the two
        files cannot be read. The same content twice is one version."""
        fields = {"name": name, "base": base, "promote": promote}
        with ExitStack() as stack:
            files = {each: stack.enter_context((folder / each).open("rb")) for each in PEFT_FILES}
            given = {field: text for field, text in fields.items() if text is not None}
            request = self._http.build_request("POST", "/v1/adapters", data=given, files=files)
            response = await self._sent(request)
        return _read(_VERSION, response)

    async def _answer(
        self, answer: TypeAdapter[_T], method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> _T:
        return _read(answer, await self._send(method, path, body))

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, *, stream: bool = False
    ) -> httpx.Response:
        request = self._http.build_request(method, path, json=body)
        return await self._sent(request, stream=stream)

    async def _sent(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            response = await self._http.send(request, stream=stream)
            if not response.is_success:
                await response.aread()
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"no answer from {request.url}: {reason}") from error
        if not response.is_success:
            raise _refusal(response)
        return response

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _read(answer: TypeAdapter[_T], response: httpx.Response) -> _T:
    try:
        return answer.validate_json(response.content)
    except ValidationError as error:
        raise RootstockClientError(
            f"{response.url} does not answer as a Rootstock server does"
        ) from error


def _refusal(response: httpx.Response) -> ApiError:
    try:
        detail = ErrorBody.model_validate_json(response.content).error
    except ValidationError:
        # A proxy in between, or no Rootstock server at all.
        message = response.text[:200] or response.reason_phrase
        detail = ErrorDetail(message=message, type="server_error")
    retry_after = response.headers.get("retry-after")
    return ApiError(detail, status=response.status_code, retry_after=retry_after)
