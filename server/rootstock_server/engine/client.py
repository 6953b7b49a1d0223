"""The front end's side of the engine: commands out, events back to whoever asked.

Refuses to know texts, names and tenants; it speaks in token ids and digests.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import BaseError

from rootstock_server import errors
from rootstock_server.config import EngineLimits
from rootstock_server.engine.request import (
    Cancel,
    Command,
    Encode,
    Encoded,
    Event,
    Failed,
    Generate,
    Heartbeat,
    Pin,
    Setup,
    Started,
    Token,
)
from rootstock_server.engine.supervisor import Supervisor

HEARTBEAT_LIMIT_S = 10.0
Answer = Token | Encoded | Failed


class EngineClient:
    """One engine process, used from one asyncio loop."""

    def __init__(
        self, base_path: Path, card: BaseCard, home: Path, dtype: str, limits: EngineLimits
    ) -> None:
        self.card = card
        self.heartbeat: Heartbeat | None = None
        self.started: Started | None = None
        # Sockets live in a short private folder: a Unix socket's path has at most 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="rootstock-"))
        address = f"ipc://{self._folder}/engine"
        self._socket = zmq.asyncio.Context.instance().socket(zmq.PAIR)
        self._socket.set_hwm(0)  # admission bounds what is in flight; see _send
        self._socket.bind(address)
        setup = Setup(
            address=address,
            base_path=str(base_path),
            card=card.model_dump_json(),
            home=str(home),
            dtype=dtype,
            limits=limits.model_dump_json(),
        )
        self._supervisor = Supervisor(setup, limits.threads or 1, self._on_death)
        self._waiting: dict[str, asyncio.Queue[Answer]] = {}
        self._ready: asyncio.Future[Started] | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._last_heartbeat = 0.0
        self._answered = False  # whether this process has answered anything yet

    @property
    def alive(self) -> bool:
        """Whether the engine was heard of in the last ten seconds, or is still loading."""
        loading = self._ready is not None and not self._ready.done()
        return loading or time.monotonic() - self._last_heartbeat < HEARTBEAT_LIMIT_S

    async def start(self) -> None:
        """Start the process and wait until the base is loaded and its parity probe has passed.

        Raises BaseError where the base cannot be served, ServerFault where the process ended.
        """
        self._ready = asyncio.get_running_loop().create_future()
        self._receiver = asyncio.create_task(self._receive())
        try:
            await self._supervisor.start()
            self.started = await self._ready
        except BaseException:
            await self._supervisor.stop()  # a base that cannot be served is not tried again
            raise

    async def close(self) -> None:
        await self._supervisor.stop()
        if self._receiver is not None:
            self._receiver.cancel()
        self._fail_all("Overloaded", "the server is stopping")
        self._socket.close(linger=0)
        shutil.rmtree(self._folder, ignore_errors=True)

    @contextmanager
    def answering(
        self, requests: Sequence[Generate | Encode], answers: asyncio.Queue[Answer]
    ) -> Iterator[None]:
        """Run `requests`, all of whose answers come into one queue; at the end of the context,
        those that have no end are cancelled.

        Raises Overloaded where no engine is there to take them.
        """
        try:
            for request in requests:
                if self._ready is None or not self._ready.done() or not self._send(request):
                    raise errors.Overloaded("the engine is starting; try again in a moment")
                self._waiting[request.id] = answers
            yield
        finally:
            for request in requests:
                self.cancel(request.id)

    def cancel(self, request_id: str) -> None:
        """Free the request's row; nothing happens where it has ended."""
        if self._waiting.pop(request_id, None) is not None and not self._socket.closed:
            self._send(Cancel(request_id))

    async def encode(self, request: Encode) -> Encoded:
        """One pass: embedding and heads. Cancelling the task cancels the row.

        Raises the RootstockError that the engine names.
        """
        answers: asyncio.Queue[Answer] = asyncio.Queue()
        with self.answering([request], answers):
            answer = await answers.get()
        if isinstance(answer, Failed):
            raise error_of(answer)
        assert isinstance(answer, Encoded)
        return answer

    def pin(self, versions: Sequence[str]) -> None:
        """Keep exactly these versions resident. To be said again to an engine that is new."""
        if self._ready is not None and self._ready.done():
            self._send(Pin(list(versions)))

    def _send(self, command: Command) -> bool:
        """Whether an engine is there to take the command. Never waits for the next engine."""
        sent = self._socket.send(msgspec.msgpack.encode(command), zmq.NOBLOCK)
        return sent.exception() is None

    async def _receive(self) -> None:
        decoder = msgspec.msgpack.Decoder(list[Event])
        while True:
            for event in decoder.decode(await self._socket.recv()):
                self._dispatch(event)

    def _dispatch(self, event: Event) -> None:
        if isinstance(event, Heartbeat):
            self.heartbeat, self._last_heartbeat = event, time.monotonic()
        elif isinstance(event, Started):
            self._last_heartbeat = time.monotonic()
            if self._ready is not None and not self._ready.done():
                self._ready.set_result(event)
        elif answers := self._waiting.get(event.id):
            if not isinstance(event, Token) or event.finish_reason is not None:
                del self._waiting[event.id]
            self._answered = True
            answers.put_nowait(event)
        elif isinstance(event, Failed) and not event.id:
            self._refuse(BaseError(event.message))

    def _refuse(self, error: Exception) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)

    def _on_death(self, code: int) -> bool:
        """The process ended: answer what was in flight, and wait for the next one.

        Nothing is sent to it again: what one process died of shall not meet the next one unasked.
        Returns whether the process had answered anything.
        """
        answered, self._answered = self._answered, False
        if self.started is None:
            self._refuse(errors.ServerFault(f"the engine ended with exit code {code} at start"))
            return answered
        self.heartbeat = None
        self._ready = asyncio.get_running_loop().create_future()
        self._fail_all("Overloaded", "the engine died and is being restarted; try again")
        return answered

    def _fail_all(self, error: str, message: str) -> None:
        for request_id, answers in self._waiting.items():
            answers.put_nowait(Failed(id=request_id, error=error, message=message))
        self._waiting.clear()


def error_of(answer: Failed) -> errors.RootstockError:
    """The class that the engine named; an unknown name is our fault, not the caller's."""
    named = getattr(errors, answer.error, errors.ServerFault)
    error: errors.RootstockError = named(answer.message, param=answer.param)
    return error
