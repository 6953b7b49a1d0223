"""The gRPC door from Python: generate, classify, embed, on one channel.

It refuses to know limits (the server judges) and HTTP (that is `async_client`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc
from rootstock_wire.openai import ErrorDetail
from rootstock_wire.v1 import inference_pb2 as pb
from rootstock_wire.v1.inference_pb2_grpc import InferenceStub

from rootstock_client.errors import ApiError, RootstockClientError, Unreachable

AdapterUse = pb.AdapterUse | Mapping[Any, Any]  # {"model": "tone", "scale": 0.5}
Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]

_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
}


class GrpcClient:
    """Speaks `rootstock.v1.Inference` with `target`, for example `127.0.0.1:8001`.

    Every method raises `ApiError` when the server refuses and `Unreachable` when the whole answer
    takes longer than `timeout_s` seconds. `options` are the request message's other fields.
    """

    def __init__(
        self, target: str, api_key: str | None = None, *, timeout_s: float = 120.0
    ) -> None:
        self._channel = grpc.aio.insecure_channel(target)
        # protoc generates the stub without types; the messages have them.
        self._stub: Any = InferenceStub(self._channel)  # type: ignore[no-untyped-call]
        self._call_options = {
            "timeout": timeout_s,
            "metadata": [("authorization", f"Bearer {api_key}")] if api_key else [],
        }

    async def generate(
        self, prompt: Prompt, *, model: str | None = None, task: str | None = None, **options: Any
    ) -> AsyncGenerator[pb.GenerateResponse, None]:
        """Streams the answer to `prompt` (text, token ids or chat messages) piece by piece.

        Close the iterator (`contextlib.aclosing`) to cancel: the server then frees the row.
        """
        request = pb.GenerateRequest(model=model, task=task, **_prompt(prompt), **options)
        call = self._stub.Generate(request, **self._call_options)
        try:
            async for piece in call:
                yield piece
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error
        finally:
            call.cancel()

    async def classify(
        self,
        input: str | Sequence[str],
        models: Sequence[str] = (),
        *,
        task: str | None = None,
        user: str | None = None,
        adapters: Sequence[AdapterUse] = (),
    ) -> pb.ClassifyResponse:
        """The answers of every head in `models` (or of the task's route) to every input."""
        request = pb.ClassifyRequest(
            input=_texts(input), models=models, task=task, user=user, adapters=adapters
        )
        answer: pb.ClassifyResponse = await self._answer(self._stub.Classify, request)
        return answer

    async def embed(
        self,
        input: str | Sequence[str],
        *,
        model: str,
        user: str | None = None,
        adapters: Sequence[AdapterUse] = (),
    ) -> pb.EmbedResponse:
        """One embedding per input."""
        request = pb.EmbedRequest(model=model, input=_texts(input), user=user, adapters=adapters)
        answer: pb.EmbedResponse = await self._answer(self._stub.Embed, request)
        return answer

    async def _answer(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, **self._call_options)
        except grpc.aio.AioRpcError as error:
            raise _translated(error) from error

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()


def _prompt(prompt: Prompt) -> dict[str, Any]:
    if isinstance(prompt, str):
        return {"text": prompt}
    if prompt and isinstance(prompt[0], Mapping):
        return {"chat": {"messages": prompt}}
    return {"token_ids": {"ids": prompt}}


def _texts(input: str | Sequence[str]) -> Sequence[str]:
    # A lone string is a sequence too: protobuf would send its characters as inputs.
    return [input] if isinstance(input, str) else input


def _translated(error: grpc.aio.AioRpcError) -> RootstockClientError:
    trailing = dict(error.trailing_metadata() or ())
    message = error.details() or error.code().name
    # The server names a type with each refusal; a broken or absent connection has none.
    if "type" not in trailing and error.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    ):
        return Unreachable(f"no answer from the server: {message}")
    detail = ErrorDetail(
        message=message,
        type=trailing.get("type", "server_error"),
        param=trailing.get("param"),
        code=trailing.get("code"),
    )
    status = _HTTP_STATUS.get(error.code(), 500)
    if status == 429 and "type" not in trailing:
        status = 413  # not a quota: gRPC itself found the message too large
    return ApiError(detail, status=status, retry_after=trailing.get("retry-after"))
