"""What references meant, for as long as nothing in the database has changed since.

Every request asks what its model's name means; between two changes the answer is the same. Refuses
to know what a reference is.
"""

from __future__ import annotations

import sqlite3
from threading import Lock

from rootstock_registry.database import Database
from rootstock_registry.records import Version

MOST = 4096  # references, before all of them are forgotten


class Remembered:
    """SQLite says for microseconds whether anybody has committed; PostgreSQL is asked every time.

    Never stale: whoever asks after a commit is answered from the rows.
    """

    def __init__(self, database: Database) -> None:
        self._lock = Lock()
        self._known: dict[tuple[str, str], Version] = {}
        self._counter: object = None
        self._watch: sqlite3.Connection | None = None
        if database.is_sqlite:
            # A connection that never writes: SQLite counts the commits of all others for it.
            self._watch = sqlite3.connect(
                database.reads.url.database or "", check_same_thread=False, isolation_level=None
            )

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def now(self) -> dict[tuple[str, str], Version]:
        """By tenant and reference; what is put in here is forgotten with the next commit."""
        if self._watch is None:
            return {}
        with self._lock:
            try:
                [counter] = self._watch.execute("PRAGMA data_version").fetchone()
            except sqlite3.Error:
                return {}  # whoever asks the rows now is told what is wrong with the file
            if counter != self._counter or len(self._known) >= MOST:
                self._counter, self._known = counter, {}
            return self._known
