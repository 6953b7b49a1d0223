"""Opens the SQLite file: its settings, its two kinds of transaction, its schema's revision.

Refuses to know what the tables mean.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from rootstock_registry.errors import NewerDatabase, RegistryError

# Oldest first. The last one is what this program reads and writes.
REVISIONS = ("0001",)
BUSY_TIMEOUT_MS = 15_000
_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """`reads` runs each statement by itself; `writes` holds the one write lock from its BEGIN."""

    def __init__(self, home: Path) -> None:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = home / "registry.db"
        self.reads = create_engine(URL.create("sqlite", database=str(path)))
        event.listen(self.reads, "connect", _configure)
        # Otherwise two writers that both began by reading would deadlock.
        self.writes = self.reads.execution_options(rootstock_begin="BEGIN IMMEDIATE")
        event.listen(self.writes, "begin", _begin)
        try:
            if self._revision() != REVISIONS[-1]:
                with _lock(home / "registry.lock"):
                    self._migrate()
        except DatabaseError as error:
            raise RegistryError(f"{path} cannot be opened as a database: {error.orig}") from error

    def close(self) -> None:
        self.reads.dispose()

    def _revision(self) -> str | None:
        with self.reads.connect() as connection:
            table = "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
            if connection.scalar(text(table)) is None:
                return None
            revision: str | None = connection.scalar(
                text("SELECT version_num FROM alembic_version")
            )
            return revision

    def _migrate(self) -> None:
        revision = self._revision()  # again: another process may just have finished
        if revision == REVISIONS[-1]:
            return
        if revision is not None and revision not in REVISIONS:
            raise NewerDatabase(
                f"{self.reads.url.database} was written by a newer version of Rootstock (schema "
                f"{revision}, this program knows up to {REVISIONS[-1]}): upgrade this program"
            )
        with self.reads.connect() as connection:
            connection.execute(text("PRAGMA journal_mode = WAL"))  # a property of the file
        with self.writes.begin() as connection:
            _upgrade(connection)


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, not where sqlite3 does
    for pragma in (f"busy_timeout = {BUSY_TIMEOUT_MS}", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    begin = connection.get_execution_options().get("rootstock_begin")
    if begin:
        connection.exec_driver_sql(begin)


def _upgrade(connection: Connection) -> None:
    # Imported here: every start but the first does without Alembic.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
