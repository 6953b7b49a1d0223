"""PostgreSQL as the registry uses it: psycopg 3, one writer at a time by an advisory lock.

Refuses to know the tables. Imports the driver only where a URL is given.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from rootstock_registry.errors import InvalidName, RegistryError

WRITER = 0x726F6F7473746F63  # "rootstoc": the lock's number; a database has its own locks
LOCK_TIMEOUT_MS = 15_000
CONNECT_TIMEOUT_S = 5
# A writer that was stopped in the middle must not keep the others waiting for ever.
IDLE_TIMEOUT_MS = 60_000
_READ_ONLY = "25006"
_LOCKED = "55P03"
_FULL = "53100"
_SETTINGS = {
    "lock_timeout": LOCK_TIMEOUT_MS,
    "idle_in_transaction_session_timeout": IDLE_TIMEOUT_MS,
}


def engines(text: str) -> tuple[Engine, Engine]:
    """`(reads, writes)`; a write transaction begins when it alone may write. Connects later.

    Raises InvalidName for another kind of URL, RegistryError without the driver.
    """
    try:
        engine = create_engine(
            url_of(text),
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,  # a server that was restarted is found again without an error
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": "rootstock",
            },
        )
    except ModuleNotFoundError as error:
        raise RegistryError(
            "PostgreSQL needs psycopg; install it with: pip install 'rootstock-server[postgres]'"
        ) from error
    event.listen(engine, "connect", _configure)
    lock = f"SELECT pg_advisory_xact_lock({WRITER})"
    reads = engine.execution_options(isolation_level="AUTOCOMMIT")
    return reads, engine.execution_options(rootstock_begin=lock)


def url_of(text: str) -> URL:
    """Raises InvalidName where `text` is no PostgreSQL URL; never repeats its password."""
    try:
        url = make_url(text)
    except ArgumentError:
        url = None
    kind = url.drivername.partition("+")[0] if url else ""
    if url is None or kind not in ("postgresql", "postgres"):
        raise InvalidName(
            "database_url: write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
            "or leave it out to keep the registry in its home folder"
        )
    return url.set(drivername="postgresql+psycopg")


def trouble(error: BaseException, disconnected: bool) -> str | None:
    """What is wrong with the server or the way to it, where `error` says that something is."""
    from psycopg import OperationalError

    state = getattr(error, "sqlstate", None)
    if state == _LOCKED:
        return (
            f"is busy: another writer has held it for {LOCK_TIMEOUT_MS // 1000} seconds; try again"
        )
    if state == _READ_ONLY:
        return "is read-only: is this a replica? Nothing was changed"
    if state == _FULL:
        return (
            f"cannot grow: no room is left on its server's disk ({_first(error)}); nothing was "
            "changed. Free some, then try again"
        )
    if disconnected or isinstance(error, OperationalError):
        why = _first(error)
        return f"does not answer ({why}); try again. What was asked may be asked again safely"
    return None


def is_full(error: BaseException) -> bool:
    """Whether the server has no room left."""
    return getattr(error, "sqlstate", None) == _FULL


def _first(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _configure(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        for name, value in _SETTINGS.items():
            cursor.execute(f"SET {name} = {value}")
    connection.commit()
