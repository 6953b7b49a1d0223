"""A port for a program that cannot choose one itself; knows no such program."""

from __future__ import annotations

import random
import socket

# Below what Linux gives to who asks for any port, which some other test does at every moment.
_RANGE = range(10_000, 32_000)


def free_port() -> int:
    """A port of 127.0.0.1 that nobody has, and that nobody gets without naming it."""
    while True:
        port = random.choice(_RANGE)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
