"""The gRPC door: listens, asks for the key, and says how healthy the server is and what it speaks.

It runs on the server's own event loop, beside HTTP. Refuses to know messages and models.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rootstock_server.api.grpc_inference import SERVICE, Inference, abort, caller, refusal_of
from rootstock_server.api.handle import Handle
from rootstock_server.errors import RootstockError, Unauthenticated

# Probes have no key. Reflection needs one, as everything else does: it is a map of the house.
OPEN = f"/{health.SERVICE_NAME}/"
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
MIRROR_S = 0.25


async def start_grpc(
    handle: Handle, address: str, *, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> GrpcDoor:
    """Listens on `address` ("host:port"; port 0 takes a free one). Raises OSError."""
    server = grpc.aio.server(
        interceptors=[_KeyFirst(handle)],
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            # Otherwise a second server would share the port, and every other call, silently.
            ("grpc.so_reuseport", 0),
        ],
    )
    server.add_generic_rpc_handlers([Inference(handle).methods()])
    mirror = _HealthMirror(handle)
    health_pb2_grpc.add_HealthServicer_to_server(mirror.servicer, server)
    services = (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(services, server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"cannot listen for gRPC on {address}: is the port taken?") from error
    await server.start()
    await mirror.start()
    return GrpcDoor(server, port, mirror)


class GrpcDoor:
    """The running door. `port` is the one it listens on, also where 0 was asked for."""

    def __init__(self, server: grpc.aio.Server, port: int, mirror: _HealthMirror) -> None:
        self.port = port
        self._server = server
        self._mirror = mirror

    async def drain(self) -> None:
        """From now on health says NOT_SERVING; whether calls are answered is the handle's say."""
        await self._mirror.stop()

    async def stop(self, grace_s: float = 0.0) -> None:
        """Takes no new calls, gives those in flight `grace_s` seconds, cancels the rest."""
        await self.drain()
        await self._server.stop(grace_s)


class _HealthMirror:
    """Keeps `grpc.health.v1` saying what `/readyz` says."""

    def __init__(self, handle: Handle) -> None:
        self.servicer = health.aio.HealthServicer()
        self._handle = handle
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._show()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        await self.servicer.enter_graceful_shutdown()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(MIRROR_S)
            await self._show()

    async def _show(self) -> None:
        answer = health_pb2.HealthCheckResponse
        status = answer.SERVING if self._handle.ready else answer.NOT_SERVING
        for service in ("", SERVICE):
            await self.servicer.set(service, status)


class _KeyFirst(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Default deny: without a valid key no method is reached, known or not, except health."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        call: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        if call.method.startswith(OPEN):
            return await continuation(call)
        try:
            # The method runs in this task, after this.
            caller.set(await self._handle.authenticate(_authorization(call)))
        except Exception as error:
            refusal = refusal_of(error)
            self._handle.telemetry.request("refused", refusal.status, 0.0)
            return _refusing(refusal)
        return await continuation(call)


def _authorization(call: grpc.HandlerCallDetails) -> str | None:
    values = [value for key, value in call.invocation_metadata if key == "authorization"]
    if len(values) > 1:
        raise Unauthenticated("send one authorization header, not several")
    return values[0] if values else None


def _refusing(refusal: RootstockError) -> grpc.RpcMethodHandler:
    async def refuse(requests: Any, context: grpc.aio.ServicerContext) -> None:
        await abort(context, refusal)

    # The one shape that fits every method: it can answer before a message is read.
    return grpc.stream_stream_rpc_method_handler(refuse)
