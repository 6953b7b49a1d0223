"""The RPCs of `rootstock.v1.Inference`: a message in, the handle asked, messages out.

Refuses to know limits and connections, and who may call: the caller comes with the call.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from pydantic import ValidationError
from rootstock_registry import KeyOwner
from rootstock_registry.errors import RegistryError
from rootstock_wire.native import ClassifyRequest
from rootstock_wire.openai import ChatRequest, CompletionRequest
from rootstock_wire.v1 import inference_pb2 as pb

from rootstock_server.api import grpc_messages as messages
from rootstock_server.api import verdict
from rootstock_server.api.combine import heads_of, target_of
from rootstock_server.api.handle import Begun, Handle
from rootstock_server.api.refusals import explain, known, log_fault
from rootstock_server.api.target import Target
from rootstock_server.errors import AdapterMismatch, BadRequest, RootstockError, ServerFault

SERVICE = pb.DESCRIPTOR.services_by_name["Inference"].full_name
# Details travel as a header, and clients take 8 KiB of headers altogether.
MAX_DETAILS_CHARS = 1000

Method = Callable[[Any, grpc.aio.ServicerContext], Awaitable[Any]]

log = structlog.get_logger()
# Who is asking, set for the task of each call before its method runs.
caller: ContextVar[KeyOwner] = ContextVar("caller")


class Inference:
    """One method per RPC. `methods` are registered with a server."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def methods(self) -> grpc.GenericRpcHandler:
        # Not the generated registration: there, bytes that are no message end in status UNKNOWN.
        stream, unary = grpc.unary_stream_rpc_method_handler, grpc.unary_unary_rpc_method_handler
        generate = self._rpc(self.generate, pb.GenerateRequest, pb.GenerateResponse)
        classify = self._rpc(self.classify, pb.ClassifyRequest, pb.ClassifyResponse)
        embed = self._rpc(self.embed, pb.EmbedRequest, pb.EmbedResponse)
        handlers = {
            "Generate": stream(*generate),
            "Classify": unary(*classify),
            "Embed": unary(*embed),
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> None:
        body = messages.generation(request)
        if isinstance(body, CompletionRequest | ChatRequest):
            target = await target_of(self._handle, caller.get(), body)
        else:
            target = await self._handle.route(caller.get(), request.task, body.user)
        answer_id = f"gen-{uuid.uuid4().hex}"
        head = pb.GenerateResponse(id=answer_id, model=target.model, digest=target.made_by)
        prompt_tokens = completion_tokens = 0
        # Written here, not yielded: a cancelled call then closes the row in the same breath.
        answer = self._handle.generate(caller.get(), target, body)
        async with aclosing(answer) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, Begun):
                    prompt_tokens = event.prompt_tokens
                    await _name_digests(context, target)
                    continue
                for delta in event:
                    completion_tokens += 1
                    usage = messages.usage(prompt_tokens, completion_tokens)
                    await context.write(messages.generated(head, delta, usage))

    async def classify(
        self, request: pb.ClassifyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ClassifyResponse:
        body = messages.classification(request)
        if isinstance(body, ClassifyRequest):
            targets = await heads_of(self._handle, caller.get(), body)
        else:
            targets = [await self._handle.route(caller.get(), request.task, body.user)]
        if per_token := [target.model for target in targets if target.labels_tokens]:
            raise AdapterMismatch(
                f"models: the head of {per_token[0]} labels tokens; ask POST /v1/classify for that",
                param="models",
            )
        answer = await self._handle.classify(caller.get(), targets, body)
        await _name_digests(context, *targets)
        return messages.classified(answer)

    async def embed(
        self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext
    ) -> pb.EmbedResponse:
        body = messages.embedding(request)
        target = await target_of(self._handle, caller.get(), body)
        answer = await self._handle.embed(caller.get(), target, body)
        await _name_digests(context, target)
        vectors = enumerate(answer.vectors)
        return pb.EmbedResponse(
            model=target.model,
            digest=target.made_by,
            data=[pb.Embedding(index=index, values=vector) for index, vector in vectors],
            usage=messages.usage(answer.prompt_tokens),
        )

    def _rpc(self, method: Method, request: Any, response: Any) -> tuple[Method, Any, Any]:
        """`method` with its errors as statuses, its message's reader and its answer's writer."""
        route = f"/{SERVICE}/{method.__name__.capitalize()}"

        def read(data: bytes) -> Any:
            try:
                return request.FromString(data)
            except DecodeError:
                return None

        async def answer(message: Any, context: grpc.aio.ServicerContext) -> Any:
            begun = time.perf_counter()
            status = 200
            try:
                if message is None:
                    raise BadRequest(f"the bytes are no {request.DESCRIPTOR.full_name}")
                return await method(message, context)
            except asyncio.CancelledError:
                status = 499  # nginx's word for a caller who left before the answer ended
                raise
            except Exception as error:
                refusal = refusal_of(error)
                status = refusal.status
                await abort(context, refusal)
            finally:
                self._observe(route, status, time.perf_counter() - begun)

        return answer, read, response.SerializeToString

    def _observe(self, route: str, status: int, seconds: float) -> None:
        """As over HTTP: statuses are those of the same refusal there."""
        self._handle.telemetry.request(route, status, seconds)
        owner = caller.get()
        log.info(
            "request",
            route=route,
            status=status,
            seconds=round(seconds, 4),
            tenant=owner.tenant,
            key=owner.key_id,
        )


async def _name_digests(context: grpc.aio.ServicerContext, *targets: Target) -> None:
    await context.send_initial_metadata([("x-rootstock-adapter", verdict.made_by(targets))])


async def abort(context: grpc.aio.ServicerContext, error: RootstockError) -> None:
    """Ends the call with the error's status; the rest of OpenAI's error body is metadata."""
    log_fault(error)
    fields = {
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "retry-after": error.retry_after_s,
    }
    await context.abort(
        getattr(grpc.StatusCode, error.grpc_status),
        error.message[:MAX_DETAILS_CHARS],
        tuple((key, str(value)) for key, value in fields.items() if value is not None),
    )


def refusal_of(error: Exception) -> RootstockError:
    """What the caller is told: nothing of an error that is our own mistake."""
    if isinstance(error, (RootstockError, RegistryError)):
        return known(error)
    if isinstance(error, ValidationError):
        return explain(error.errors())
    fault = ServerFault("the server failed while answering; its log says why")
    fault.__cause__ = error
    return fault
