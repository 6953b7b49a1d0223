"""The way to a database server that may hang: after one long wait nobody else waits so long.

Refuses to know what is asked over a connection, and how one is made.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock, Thread
from typing import Any

# How long an attempt to find a lost server again is waited for by those who need it. A server that
# is there, or refuses, says so at once; what takes longer hangs.
PATIENCE_S = 0.25


class Reach:
    """Once the server is lost, one attempt at a time looks for it, on a thread of its own; whoever
    needs a connection meanwhile is told soon what the last attempt was told. For threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._lost: Exception | None = None
        self._attempt: Thread | None = None
        self._begun = 0.0

    def connect(self, new: Callable[[], Any]) -> Any:
        """What `new` returns. Raises what it raises, or what it raised last."""
        if self._lost is not None:
            self._look(new)
        try:
            connection = new()
        except Exception as error:
            self._lost = error
            raise
        self._lost = None
        return connection

    def lose(self, error: Exception) -> None:
        """Somebody found that the server does not answer."""
        self._lost = error

    def _look(self, new: Callable[[], Any]) -> None:
        """Return when the server is there; raise where it is not, or keeps us waiting."""
        with self._lock:
            if self._attempt is None or not self._attempt.is_alive():
                self._begun = time.monotonic()
                self._attempt = Thread(target=self._try, args=(new,), daemon=True)
                self._attempt.start()
            attempt, left = self._attempt, self._begun + PATIENCE_S - time.monotonic()
        attempt.join(max(0.0, left))
        lost = self._lost
        if lost is not None:
            raise type(lost)(*lost.args)  # another one: each thread writes its own traceback

    def _try(self, new: Callable[[], Any]) -> None:
        try:
            new().close()
        except Exception as error:
            self._lost = error
        else:
            self._lost = None
