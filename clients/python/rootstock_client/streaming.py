"""An answer that arrives in pieces: server-sent events in, pieces of text out.

It refuses to know how the request was made: it reads one open response to its end.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import httpx
from pydantic import TypeAdapter, ValidationError
from rootstock_wire.openai import ChatChunk, ErrorBody, Usage

from rootstock_client.errors import ApiError, RootstockClientError, Unreachable

_EVENT: TypeAdapter[ChatChunk | ErrorBody] = TypeAdapter(ChatChunk | ErrorBody)


class TextStream:
    """Iterate over it for the pieces of text; closing it early cancels the request.

    `digest` names the version that answers, from the start; `finish_reason` and `usage` are None
    until the stream has ended.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.digest: str = response.headers.get("x-rootstock-adapter", "")
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self._response = response
        self._pieces = self._read()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def _read(self) -> AsyncIterator[str]:
        try:
            async for line in self._response.aiter_lines():
                if line == "data: [DONE]":
                    return
                if line.startswith("data: ") and (piece := self._piece(line[len("data: ") :])):
                    yield piece
            raise Unreachable("the stream broke off before its last event")
        except httpx.TransportError as error:
            raise Unreachable(f"the stream broke off: {error}") from error
        finally:
            await self._response.aclose()

    def _piece(self, event: str) -> str | None:
        try:
            chunk = _EVENT.validate_json(event)
        except ValidationError as error:
            raise RootstockClientError(f"not an event of a chat stream: {event:.100}") from error
        if isinstance(chunk, ErrorBody):
            # The HTTP status went out with the first piece, long before this.
            unavailable = chunk.error.type == "service_unavailable_error"
            raise ApiError(chunk.error, status=503 if unavailable else 500)
        self.usage = chunk.usage or self.usage
        if not chunk.choices:
            return None
        self.finish_reason = chunk.choices[0].finish_reason or self.finish_reason
        return chunk.choices[0].delta.content

    async def aclose(self) -> None:
        await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()
