"""SQLite as the registry uses it: a file in the home folder, durable, shared by processes.

Refuses to know the tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL

BUSY_TIMEOUT_MS = 15_000
_TROUBLE = {
    "SQLITE_BUSY": "is busy: another process has been writing for "
    f"{BUSY_TIMEOUT_MS // 1000} seconds; try again",
    "SQLITE_FULL": "cannot grow: no room is left on its disk; nothing was changed. Free some, "
    "then try again",
    "SQLITE_IOERR": "cannot be read or written: the disk reports an error; nothing was changed",
    "SQLITE_READONLY": "is read-only for this process; nothing was changed",
    "SQLITE_CANTOPEN": "cannot be opened: is its folder there, and may this process use it?",
    "SQLITE_CORRUPT": "is damaged: restore it from a copy",
}


def engines(path: Path) -> tuple[Engine, Engine]:
    """`(reads, writes)`; a write transaction holds the file's one write lock from its BEGIN."""
    reads = create_engine(URL.create("sqlite", database=str(path)))
    event.listen(reads, "connect", _configure)
    # Otherwise two writers that both began by reading would deadlock.
    return reads, reads.execution_options(rootstock_begin="BEGIN IMMEDIATE")


def trouble(error: BaseException, _disconnected: bool) -> str | None:
    """What is wrong with the file, where `error` says that something is."""
    name = getattr(error, "sqlite_errorname", "")
    return next((words for code, words in _TROUBLE.items() if name.startswith(code)), None)


def is_full(error: BaseException) -> bool:
    """Whether no room is left for the file to grow."""
    return getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"


def _configure(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where we say so, not where sqlite3 does
    for pragma in (f"busy_timeout = {BUSY_TIMEOUT_MS}", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
