"""A database server that takes connections and says nothing costs its first callers some seconds,
and nobody after them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry, errors, postgresql

Head = Callable[[float], NewPart]
CONNECT_S = 2  # libpq knows no shorter limit
ASKED = 40


class Way:
    """Carries bytes to the server and back; once it hangs, it takes connections and is silent."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.accepted = 0
        self.going = threading.Event()
        self.going.set()
        self._server = server
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.going.set()
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.accepted += 1
                far = socket.create_connection(self._server)
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.going.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def way(cleared_database: str) -> Iterator[Way]:
    server = urlsplit(cleared_database)
    one = Way((server.hostname or "", server.port or 0))
    yield one
    one.close()


@pytest.fixture
def registry(
    home: Path, way: Way, cleared_database: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Registry]:
    monkeypatch.setattr(postgresql, "CONNECT_TIMEOUT_S", CONNECT_S)
    monkeypatch.setattr(postgresql, "PING_S", 0.5)
    name = urlsplit(cleared_database).path
    one = Registry(home, f"postgresql://postgres@127.0.0.1:{way.port}{name}")
    yield one
    one.close()


def test_once_it_was_waited_for_what_it_said_last_is_answered_without_waiting(
    registry: Registry, way: Way, card: BaseCard, head: Head, lineage: Lineage
) -> None:
    for value in (1.0, 2.0):
        registry.publish("local", "triage", card, [head(value)], lineage=lineage)
    registry.promote("local", "triage:1", "prod")

    def ask(_: int = 0) -> int:
        return registry.resolve("local", "triage").number

    def refused() -> None:
        for new in (
            lambda: registry.resolve("local", "triage@next"),
            lambda: registry.promote("local", "triage:2", "prod"),
            registry.ask_database,
        ):
            with pytest.raises(errors.Unavailable, match="does not answer"):
                new()

    with ThreadPoolExecutor(4) as callers:
        assert set(callers.map(ask, range(8))) == {1}  # with a connection for each
        way.going.clear()
        assert ask() == 1
        begun, accepted = time.monotonic(), way.accepted
        assert set(callers.map(ask, range(ASKED))) == {1}
        refused()
        took = time.monotonic() - begun
    # All together took no longer than one of them would have waited for a connection, and one
    # attempt at a time was made.
    assert took < CONNECT_S
    assert way.accepted - accepted <= 2
    way.going.set()
    eventually(registry.ask_database)
    registry.promote("local", "triage:2", "prod")
    assert ask() == 2


def eventually(ask: Callable[[], None]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            return ask()
        except errors.Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_connection_that_was_in_use_when_it_fell_silent_is_not_waited_for_without_end(
    registry: Registry, way: Way
) -> None:
    assert registry.tenants() == ["local"]
    way.going.clear()
    with pytest.raises(errors.Unavailable, match=r"no answer within 0.5 seconds"):
        registry.tenants()
