"""What the database said last, for the seconds in which it does not answer.

Requests go on while a database is restarted: a name means what it meant a moment ago. Refuses to
know what is asked, and to answer anything that the database has not said itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import TypeVar, cast

from rootstock_registry.errors import NotFound, Quarantined, Unavailable

T = TypeVar("T")

GOOD_FOR_S = 30.0
MOST = 16_384  # answers, before all of them are forgotten


class LastSaid:
    """Answers by their questions, each as old as the database's last word on it. For threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._said: dict[tuple[str, ...], tuple[float, object]] = {}

    def or_now(self, question: tuple[str, ...], look_up: Callable[[], T]) -> T:
        """What `look_up` returns; where it raises Unavailable, what it returned at most
        `GOOD_FOR_S` seconds ago. That something is not there (None, NotFound) or no longer
        answers (Quarantined) is not kept."""
        try:
            found = look_up()
        except Unavailable:
            at, said = self._said.get(question, (0.0, None))
            if said is None or time.monotonic() - at > GOOD_FOR_S:
                raise
            return cast(T, said)
        except (NotFound, Quarantined):
            self._keep(question, None)
            raise
        self._keep(question, found)
        return found

    def _keep(self, question: tuple[str, ...], found: object) -> None:
        with self._lock:
            if found is None:
                self._said.pop(question, None)
                return
            if len(self._said) >= MOST:
                self._said.clear()
            self._said[question] = (time.monotonic(), found)
