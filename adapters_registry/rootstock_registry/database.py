"""Opens the database: its two kinds of transaction, its schema's revision, its faults in words.

SQLite in the home folder, or PostgreSQL by URL. Refuses to know what the tables mean.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, event, inspect, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DatabaseError

from rootstock_registry import postgresql, sqlite
from rootstock_registry.errors import (
    InvalidName,
    NewerDatabase,
    RegistryError,
    StorageFull,
    Unavailable,
)

# Oldest first. The last one is what this program reads and writes.
REVISIONS = ("0001", "0002", "0003", "0004")
_MIGRATIONS = Path(__file__).parent / "migrations"


class Database:
    """`reads` runs each statement by itself; of `writes`, one transaction runs at a time.

    One writer at a time, on both databases: SQLite's `BEGIN IMMEDIATE`, and on PostgreSQL one
    advisory lock. What a writer has read is then still so when it writes, numbers have no gaps,
    and whatever it appends to the change feed or the audit log becomes visible in order.
    """

    def __init__(self, home: Path, url: str | None = None) -> None:
        """`url`: `postgresql://user:password@host/database`; without it, `registry.db` in `home`.

        Raises RegistryError where it cannot be opened, NewerDatabase, Unavailable.
        """
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        engines = sqlite.engines(home / "registry.db") if url is None else postgresql.engines(url)
        self.reads, self.writes = engines
        event.listen(self.reads, "handle_error", self._in_words)
        event.listen(self.writes, "begin", _begin)
        self.place = self.reads.url.render_as_string() if url else str(self.reads.url.database)
        try:
            if self._revision() != REVISIONS[-1]:
                with _lock(home / "registry.lock"):
                    self._migrate(home)
        except BaseException as error:
            self.close()
            if isinstance(error, DatabaseError):
                why = str(error.orig).partition("\n")[0]
                raise RegistryError(
                    f"{self.place} cannot be opened as a database: {why}"
                ) from error
            raise

    @property
    def is_sqlite(self) -> bool:
        return self.reads.dialect.name == "sqlite"

    def close(self) -> None:
        self.reads.dispose()

    def ask(self) -> None:
        """Read one row. Raises Unavailable where the database does not answer now."""
        with self.reads.connect() as connection:
            connection.scalar(text("SELECT version_num FROM alembic_version"))

    def _revision(self, connection: Connection | None = None) -> str | None:
        if connection is None:
            with self.reads.connect() as reading:
                return self._revision(reading)
        if not inspect(connection).has_table("alembic_version"):
            return None
        revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
        return revision

    def _migrate(self, home: Path) -> None:
        if self.is_sqlite:
            with self.reads.connect() as connection:
                connection.execute(text("PRAGMA journal_mode = WAL"))  # a property of the file
        with self.writes.begin() as connection:
            revision = self._revision(connection)  # again: somebody else may just have finished
            if revision is not None and revision not in REVISIONS:
                raise NewerDatabase(
                    f"{self.place} was written by a newer version of Rootstock (schema "
                    f"{revision}, this program knows up to {REVISIONS[-1]}): upgrade this program"
                )
            if revision != REVISIONS[-1]:
                _upgrade(connection, home / "blobs")

    def notified(self, connection: Connection, timeout_s: float) -> bool:
        """PostgreSQL: whether a notification came within `timeout_s`. Raises Unavailable."""
        driver = connection.connection.driver_connection
        assert driver is not None
        try:
            return any(True for _ in driver.notifies(timeout=timeout_s, stop_after=1))
        except driver.OperationalError as error:
            raise self._unavailable(error, disconnected=True) or error from error

    def _in_words(self, context: ExceptionContext) -> Exception | None:
        """A database that cannot be reached or written is no fault of who asked."""
        if _is_no_text(context.original_exception):
            return InvalidName(
                "a name or text holds NUL or half a surrogate pair, which no database keeps"
            )
        return self._unavailable(context.original_exception, context.is_disconnect)

    def _unavailable(self, error: BaseException, disconnected: bool) -> Unavailable | None:
        kind = sqlite if self.is_sqlite else postgresql
        why = kind.trouble(error, disconnected)
        if why is None:
            return None
        error_class = StorageFull if kind.is_full(error) else Unavailable
        return error_class(f"the registry's database {self.place} {why}")


def _is_no_text(error: BaseException) -> bool:
    # What the drivers say of a string that has no form in UTF-8, or in PostgreSQL's text.
    return isinstance(error, UnicodeEncodeError) or "cannot contain NUL" in str(error)


def upsert(
    connection: Connection, table: Table, values: Mapping[str, Any], key: Sequence[str]
) -> None:
    """Insert `values`; where a row has the same `key`, set its other columns to them."""
    row = _insert(connection, table).values(**values)
    changed = {name: row.excluded[name] for name in values if name not in key}
    connection.execute(row.on_conflict_do_update(index_elements=list(key), set_=changed))


def insert_new(connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert those of `rows` whose keys are not there yet."""
    if rows:
        connection.execute(_insert(connection, table).on_conflict_do_nothing(), list(rows))


def _insert(connection: Connection, table: Table) -> Any:
    # The two dialects say ON CONFLICT in the same words, but SQLAlchemy has a class for each.
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as sqlite_insert

        return sqlite_insert(table)
    from sqlalchemy.dialects.postgresql import insert as postgresql_insert

    return postgresql_insert(table)


def _begin(connection: Connection) -> None:
    begin = connection.get_execution_options().get("rootstock_begin")
    if begin:
        connection.exec_driver_sql(begin)


def _upgrade(connection: Connection, blobs: Path) -> None:
    # Imported here: every start but the first does without Alembic.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(connection=connection, blobs=blobs)
    command.upgrade(config, "head")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
