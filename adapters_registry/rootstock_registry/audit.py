"""The audit log: one row for every change, chained by hashes, in the transaction of the change.

Each row's hash is sha256 over the row's canonical JSON, the hash of the row before it included
(Schneier and Kelsey, "Secure audit logs to support computer forensics", 1999). Refuses to know what
the changes mean.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from rootstock_registry.errors import BrokenAudit
from rootstock_registry.model import audit

GENESIS = "0" * 64  # what the first row says is before it
ROWS_AT_ONCE = 1000
MAX_ACTOR_CHARS = 200

# Who changes things now. Whoever asks on another's behalf says so with `acting_as`; a thread that
# asyncio starts inherits it.
_actor: ContextVar[str | None] = ContextVar("actor", default=None)


@dataclass(frozen=True)
class AuditRow:
    """One change: `actor` did `action` to `object`. `at` are seconds since 1970."""

    seq: int
    at: float
    tenant: str | None
    actor: str
    action: str
    object: str
    detail: Mapping[str, Any]
    previous: str
    hash: str


@dataclass(frozen=True)
class AuditHead:
    """The end of an unbroken chain. Kept elsewhere, `hash` proves later what was there."""

    rows: int
    hash: str


@contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """Let the changes inside be `actor`'s: a key's id, or a program's name."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


def current_actor() -> str:
    """Who `acting_as` names; the operating system's user where nobody is named."""
    return (_actor.get() or f"user:{_user()}")[:MAX_ACTOR_CHARS]


def record(
    connection: Connection,
    tenant: str | None,
    action: str,
    object: str,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Append a row to the chain; `tenant` is None for what belongs to nobody.

    The caller holds the write lock, so nobody else appends to the same end.
    """
    last = connection.execute(
        select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1)
    ).first()
    values: dict[str, Any] = {
        # Not the database's own counter: that one leaves gaps where a transaction is undone.
        "seq": last.seq + 1 if last else 1,
        "at": time.time(),
        "tenant": tenant,
        "actor": current_actor(),
        "action": action,
        "object": object,
        "detail": dict(detail or {}),
        "previous": last.hash if last else GENESIS,
    }
    stored = values | {"detail": _canonical(dict(detail or {})), "hash": _hash(values)}
    connection.execute(audit.insert().values(stored))


def rows(
    connection: Connection,
    *,
    tenant: str | None = None,
    object: str | None = None,
    after: int | None = None,
    limit: int = 50,
) -> list[AuditRow]:
    """Newest first, older than the row `after`. An adapter's name finds `name:3`, too."""
    query = select(audit).order_by(audit.c.seq.desc()).limit(limit)
    if tenant is not None:
        query = query.where(audit.c.tenant == tenant)
    if object is not None:
        below = [audit.c.object.startswith(f"{object}{mark}", autoescape=True) for mark in ":@"]
        query = query.where((audit.c.object == object) | below[0] | below[1])
    if after is not None:
        query = query.where(audit.c.seq < after)
    return [_row(row) for row in connection.execute(query)]


def published(connection: Connection, tenant: str, object: str) -> str | None:
    """The digest that was published as `object` last; None where no row says so."""
    mine = (audit.c.object == object, audit.c.tenant == tenant, audit.c.action == "publish")
    query = select(audit).where(*mine).order_by(audit.c.seq.desc()).limit(1)
    row = connection.execute(query).first()
    digest = _row(row).detail.get("digest") if row else None
    return digest if isinstance(digest, str) else None


def verify(connection: Connection, head: str | None = None) -> AuditHead:
    """Recompute the whole chain; return its end.

    Raises BrokenAudit naming the first row that does not fit, and where `head`, a hash that was
    kept from an earlier end, is no longer in the chain.
    """
    before, count, seen = GENESIS, 0, head in (None, GENESIS)
    for row in _in_order(connection):
        _check(row, count + 1, before)
        before, count, seen = row.hash, count + 1, seen or row.hash == head
    if not seen:
        raise BrokenAudit(
            f"the chain of {count} rows fits together, but the hash that was kept, {head}, is not "
            "in it: rows were cut off at the end, or all were written anew"
        )
    return AuditHead(count, before)


def _check(row: AuditRow, expected: int, before: str) -> None:
    what = f"row {row.seq} ({row.action} {row.object})"
    if row.seq != expected:
        raise BrokenAudit(f"row {expected} is missing: {what} comes in its place")
    if not _fits(row):
        raise BrokenAudit(f"{what} was changed after it was written: its hash does not fit")
    if row.previous != before:
        raise BrokenAudit(
            f"{what} does not follow the row before it: one of them was replaced or moved"
        )


def _fits(row: AuditRow) -> bool:
    try:
        return row.hash == _hash({k: v for k, v in asdict(row).items() if k != "hash"})
    except (TypeError, ValueError):  # bytes, or infinity: no row of ours has such a value
        return False


def _in_order(connection: Connection) -> Iterator[AuditRow]:
    query: Select[Any] = select(audit).order_by(audit.c.seq).limit(ROWS_AT_ONCE)
    last = None
    while True:
        found = connection.execute(query if last is None else query.where(audit.c.seq > last)).all()
        yield from map(_row, found)
        if len(found) < ROWS_AT_ONCE:
            return
        last = found[-1].seq


def _row(row: Row[Any]) -> AuditRow:
    try:
        detail = json.loads(row.detail)
    except (TypeError, ValueError, RecursionError):
        detail = None
    if not isinstance(detail, dict):
        # Only by a hand other than ours; verify says which row it is.
        detail = {"unreadable": str(row.detail)}
    values = {**row._mapping, "detail": detail}
    return AuditRow(**values)


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(values).encode()).hexdigest()


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(
        values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a number that has no name
        return "unknown"
