"""The server's own listening socket."""

from __future__ import annotations

import socket

from rootstock_server.app import _listen


def test_small_answers_are_sent_at_once() -> None:
    """A connection that waits for acknowledgements answers 40 ms late, every time."""
    with (
        _listen("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
