"""The pure-ASGI skins around every HTTP route: key first, then metrics, body cap and disconnect.

Refuses to know what the routes do. Starlette's BaseHTTPMiddleware would hide disconnects.
"""

from __future__ import annotations

import asyncio
import time

import structlog
from rootstock_registry.audit import acting_as
from rootstock_registry.errors import RegistryError
from rootstock_wire.registry import PEFT_FILES
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rootstock_server.api.handle import Handle
from rootstock_server.api.pages.document import takes_password
from rootstock_server.api.refusals import known, response_to
from rootstock_server.config import Limits
from rootstock_server.errors import RootstockError, TooLarge, Unauthenticated
from rootstock_server.tenancy.auth import from_password

# What answers without a key; everything else does not, known route or not.
OPEN_PATHS = frozenset({"/livez", "/readyz", "/health", "/metrics"})

log = structlog.get_logger()


# Bodies too large to be held, and the field that is, where one is larger than a file may be.
UPLOADS = {("POST", "/v1/files"): "file", ("POST", "/v1/adapters"): PEFT_FILES[1]}


class KeyFirst:
    """The outermost skin: nothing behind it runs for a caller without a valid key."""

    def __init__(self, app: ASGIApp, handle: Handle) -> None:
        self._app, self._handle = app, handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope.get("path") in OPEN_PATHS:
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        try:
            scope["caller"] = await self._handle.authenticate(_authorization(scope))
        except (RootstockError, RegistryError) as error:
            refusal = known(error)
            self._handle.telemetry.request("refused", refusal.status, 0.0)
            return await response_to(scope, refusal)(scope, receive, send)
        # Whatever the request changes in the registry is its key's, in the audit log.
        with acting_as(scope["caller"].key_id):
            return await self._app(scope, receive, send)


def _authorization(scope: Scope) -> str | None:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    if len(values) > 1:
        raise Unauthenticated("send one Authorization header, not several")
    if not values:
        return None
    value = values[0].decode("latin-1")
    return from_password(value) if takes_password(scope["method"], scope["path"]) else value


class Observe:
    """Counts and times each request by its route's pattern, and writes one log line for it."""

    def __init__(self, app: ASGIApp, handle: Handle) -> None:
        self._app, self._handle = app, handle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return await self._app(scope, receive, send)
        begun = time.perf_counter()
        status = 499  # nginx's word for a caller who left before the answer began

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except Exception:
            status = 500
            raise
        finally:
            seconds = time.perf_counter() - begun
            route = getattr(scope.get("route"), "path", "unknown")
            self._handle.telemetry.request(route, status, seconds)
            log.info(
                "request",
                route=route,
                status=status,
                seconds=round(seconds, 4),
                tenant=scope["caller"].tenant,
                key=scope["caller"].key_id,
            )


class Intake:
    """Reads the body up to a limit, then runs the route and cancels it when the caller leaves."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app, self._max, self._max_file = app, limits.max_body_bytes, limits.max_file_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        if field := UPLOADS.get((scope["method"], scope["path"])):
            # The route takes it from the socket, piece by piece.
            return await self._app(scope, _counted(receive, self._max_file, field), send)
        body = await self._read(receive)
        if body is None:
            error = TooLarge(f"the body is larger than {self._max} bytes")
            return await response_to(scope, error)(scope, receive, send)
        await self._run(scope, body, receive, send)

    async def _read(self, receive: Receive) -> bytes | None:
        """The whole body; None where it is too large. A caller who leaves sends an empty one."""
        chunks, size = [], 0
        while True:
            message = await receive()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max:
                return None
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        complete = False

        async def replay() -> Message:
            # The watcher below owns the real `receive`; the route sees the body, then silence.
            return pending.pop() if pending else await asyncio.Future()

        async def watch(message: Message) -> None:
            nonlocal complete
            last = not message.get("more_body", False)
            complete = complete or (message["type"] == "http.response.body" and last)
            await send(message)

        async def leave() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not complete:
                route.cancel("the caller has left")

        route = asyncio.ensure_future(self._app(scope, replay, watch))
        watcher = asyncio.create_task(leave())
        try:
            await asyncio.wait({route})
        finally:
            watcher.cancel()
            route.cancel()
            await asyncio.gather(route, watcher, return_exceptions=True)
        if not route.cancelled():
            route.result()


def _counted(receive: Receive, most: int, field: str) -> Receive:
    """`receive`, which raises TooLarge where the body goes over `most` bytes."""
    size = 0

    async def next_piece() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise TooLarge(f"the upload is larger than {most} bytes", param=field)
        return message

    return next_piece
