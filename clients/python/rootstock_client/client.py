"""The blocking client: every method of `AsyncClient`, waited for.

It refuses to know what the methods do: one bridge turns each into its blocking form, on an event
loop in a thread of the client's own.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Concatenate, ParamSpec, Self, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from rootstock_wire.openai import Usage

from rootstock_client.async_client import AsyncClient
from rootstock_client.streaming import TextStream

P = ParamSpec("P")
R = TypeVar("R")


class BlockingTextStream:
    """A `TextStream` to loop over without `async`; closing it early cancels the request."""

    def __init__(self, stream: TextStream, portal: BlockingPortal) -> None:
        self._stream = stream
        self._portal = portal

    @property
    def digest(self) -> str:
        return self._stream.digest

    @property
    def finish_reason(self) -> str | None:
        return self._stream.finish_reason

    @property
    def usage(self) -> Usage | None:
        return self._stream.usage

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return _wait(self._portal, self._stream.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        self._portal.call(self._stream.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _wait(portal: BlockingPortal, work: Callable[[], Awaitable[R]]) -> R:
    result = portal.start_task_soon(work)
    try:
        return result.result()
    except BaseException:
        result.cancel()  # Ctrl-C while waiting: the request must not live on
        raise


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Awaitable[R]],
) -> Callable[Concatenate[Client, P], R]:
    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return _wait(self._portal, functools.partial(method, self._core, *args, **kwargs))

    return call


def _blocking_stream(
    method: Callable[Concatenate[AsyncClient, P], Awaitable[TextStream]],
) -> Callable[Concatenate[Client, P], BlockingTextStream]:
    opened = _blocking(method)

    @functools.wraps(method)
    def call(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> BlockingTextStream:
        return BlockingTextStream(opened(self, *args, **kwargs), self._portal)

    return call


class Client:
    """`AsyncClient` for code without an event loop; usable from several threads at once."""

    def __init__(
        self, base_url: str, api_key: str | None = None, *, timeout_s: float = 120.0
    ) -> None:
        self._core = AsyncClient(base_url, api_key, timeout_s=timeout_s)
        self._open = ExitStack()
        self._portal = self._open.enter_context(start_blocking_portal())
        # Undone in reverse: connections first, then what still waits, then the thread.
        self._open.callback(self._portal.call, self._portal.stop, True)
        self._open.callback(self._portal.call, self._core.close)

    models = _blocking(AsyncClient.models)
    complete = _blocking(AsyncClient.complete)
    chat = _blocking(AsyncClient.chat)
    stream_chat = _blocking_stream(AsyncClient.stream_chat)
    embed = _blocking(AsyncClient.embed)
    classify = _blocking(AsyncClient.classify)
    task = _blocking(AsyncClient.task)
    import_peft = _blocking(AsyncClient.import_peft)

    def close(self) -> None:
        """Closes the connections and ends the thread; calls in other threads are cancelled."""
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
