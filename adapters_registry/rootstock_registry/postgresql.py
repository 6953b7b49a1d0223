"""PostgreSQL as the registry uses it: psycopg 3, one writer at a time by an advisory lock.

Refuses to know the tables. Imports the driver only where a URL is given.
"""

from __future__ import annotations

import select
import time
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InvalidatePoolError

from rootstock_registry.errors import InvalidName, RegistryError
from rootstock_registry.reach import Reach

WRITER = 0x726F6F7473746F63  # "rootstoc": the lock's number; a database has its own locks
LOCK_TIMEOUT_MS = 15_000
CONNECT_TIMEOUT_S = 5
# Before each use a connection is asked whether its server is still there: a round trip.
PING_S = 2.0
# A writer that was stopped in the middle must not keep the others waiting for ever.
IDLE_TIMEOUT_MS = 60_000
# Packets that nobody acknowledges end a connection after so long, instead of a quarter of an hour.
_LOST_PACKETS = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 15_000,
}
_EMPTY = 0  # libpq's PGRES_EMPTY_QUERY
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
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": "rootstock",
                **_LOST_PACKETS,
            },
        )
    except ModuleNotFoundError as error:
        raise RegistryError(
            "PostgreSQL needs psycopg; install it with: pip install 'rootstock-server[postgres]'"
        ) from error
    event.listen(engine, "connect", _configure)
    _watch(engine, Reach())
    lock = f"SELECT pg_advisory_xact_lock({WRITER})"
    reads = engine.execution_options(isolation_level="AUTOCOMMIT")
    return reads, engine.execution_options(rootstock_begin=lock)


def _watch(engine: Engine, reach: Reach) -> None:
    """A server that was restarted is found again without an error, and one that hangs costs its
    first callers some seconds, and nobody after them."""

    def connect(dialect: Any, _record: Any, args: list[Any], options: dict[str, Any]) -> Any:
        return reach.connect(lambda: dialect.connect(*args, **options))

    def check_out(connection: Any, _record: Any, _proxy: Any) -> None:
        error = _ping(connection)
        if error is None:
            return
        if isinstance(error, TimeoutError):
            reach.lose(type(connection).OperationalError(str(error)))
        raise InvalidatePoolError  # SQLAlchemy then connects anew, and drops the others' like it

    event.listen(engine, "do_connect", connect)
    event.listen(engine, "checkout", check_out)


def _ping(connection: Any) -> Exception | None:
    """Why the connection's server does not answer; None where it does, within `PING_S`.

    By libpq itself: psycopg's own wait for an answer, as SQLAlchemy's ping uses it, has no end.
    """
    line, deadline = connection.pgconn, time.monotonic() + PING_S
    poll = select.poll()
    try:
        poll.register(line.socket, select.POLLIN)
        line.send_query(b"")
        line.flush()  # a few bytes into an empty buffer
        while line.is_busy():
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                return TimeoutError(f"no answer within {PING_S:g} seconds")
            line.consume_input()
        result = line.get_result()
    except connection.OperationalError as error:
        return ConnectionError(_first(error))
    if result is None or result.status != _EMPTY or line.get_result() is not None:
        return ConnectionError("the server has ended the connection")
    return None


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
