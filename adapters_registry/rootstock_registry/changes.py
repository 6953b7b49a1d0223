"""The feed of changes: one row in the transaction of every change, followed without a storm.

Refuses to know what a follower does about a change.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Self

from sqlalchemy import Connection, func, select, text

from rootstock_registry.database import Database
from rootstock_registry.model import changes
from rootstock_registry.records import Change, ChangeKind

MAX_CHANGES = 1000
CHANNEL = "rootstock_changes"
# SQLite: how often the file's change counter is looked at, which reads no table.
LOOK_S = 0.25
# PostgreSQL tells its listeners; should one not be told, the table is read this often.
NET_S = 10.0


def record(connection: Connection, tenant: str | None, kind: ChangeKind, name: str) -> None:
    """Append a change, visible with the transaction that makes it. The caller is the writer."""
    row = {"at": time.time(), "tenant": tenant, "kind": kind, "name": name}
    connection.execute(changes.insert().values(**row))
    if connection.dialect.name == "postgresql":
        # Told at commit, once per transaction: equal notifications are one.
        connection.execute(text(f"NOTIFY {CHANNEL}"))


def after(connection: Connection, seq: int, limit: int) -> list[Change]:
    """Oldest first: the first `limit` changes after the one numbered `seq`."""
    query = select(changes).where(changes.c.seq > seq).order_by(changes.c.seq).limit(limit)
    return [
        Change(row.seq, datetime.fromtimestamp(row.at, UTC), row.tenant, row.kind, row.name)
        for row in connection.execute(query)
    ]


def last(connection: Connection) -> int:
    """The number of the newest change; 0 where there is none."""
    seq: int = connection.scalar(select(func.coalesce(func.max(changes.c.seq), 0))) or 0
    return seq


class Follower:
    """Waits for changes on a connection of its own. For one thread; close it, or use `with`.

    Where the database goes away, `wait` raises Unavailable; calling it again connects anew, and
    nothing is missed: it goes on from `seq`.
    """

    def __init__(self, database: Database, seq: int | None = None) -> None:
        """From the change after `seq`; by default, from now. Raises Unavailable."""
        self._database = database
        self._connection: Connection | None = None
        # Whether the table may have more than was read, the file's change counter when it was
        # last read, and when it is read in any case.
        self._behind = True
        self._counter: object = None
        self._net = 0.0
        if seq is None:
            with database.reads.connect() as connection:
                seq = last(connection)
        self.seq = seq

    def wait(self, timeout_s: float) -> list[Change]:
        """What has changed since the last call, as soon as something has; nothing by then: []."""
        deadline = time.monotonic() + timeout_s
        try:
            connection = self._connect()
            while True:
                if self._behind:
                    found = after(connection, self.seq, MAX_CHANGES)
                    self._behind = len(found) == MAX_CHANGES
                    if found:
                        self.seq = found[-1].seq
                        return found
                left = deadline - time.monotonic()
                if left <= 0:
                    return []
                told = self._look if self._database.is_sqlite else self._listen
                self._behind = told(connection, left)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # Not back into the pool: nobody else should hear what this one listens to.
            connection.invalidate()
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._database.reads.connect()
            if not self._database.is_sqlite:
                self._connection.execute(text(f"LISTEN {CHANNEL}"))
                self._net = time.monotonic() + NET_S
            # Nobody told this connection what came before it.
            self._behind = True
        return self._connection

    def _look(self, connection: Connection, timeout_s: float) -> bool:
        """Whether any other connection has committed, by SQLite's counter of that."""
        deadline = time.monotonic() + timeout_s
        while True:
            counter = connection.scalar(text("PRAGMA data_version"))
            if counter != self._counter:
                self._counter = counter
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(LOOK_S, left))

    def _listen(self, connection: Connection, timeout_s: float) -> bool:
        """Whether PostgreSQL tells of a change, or it is time to look without being told."""
        until_net = max(0.0, self._net - time.monotonic())
        told = self._database.notified(connection, min(timeout_s, until_net))
        if not told and time.monotonic() < self._net:
            return False
        self._net = time.monotonic() + NET_S
        return True
