"""What happens to a published version: aliases move to it and go back, it is yanked, deleted.

Each call is one transaction, and doing it twice is doing it once. Refuses to know blobs: those of
deleted versions are collected later.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from rootstock_adapters.errors import printable
from sqlalchemy import Connection, Row, select, update

from rootstock_registry import audit, index, listing, quarantine, routes
from rootstock_registry.changes import record
from rootstock_registry.errors import Conflict, InvalidName, NotFound
from rootstock_registry.gates import NO_GATES, Gates
from rootstock_registry.model import alias_moves, versions
from rootstock_registry.names import check_name, parse_ref
from rootstock_registry.opened import Opened
from rootstock_registry.records import (
    AdapterSummary,
    AliasMove,
    AliasSummary,
    Page,
    Version,
    VersionSummary,
)
from rootstock_registry.signing import PublicKey

DEFAULT_LIMIT, MAX_LIMIT = 20, 100
MAX_REASON_CHARS = 1000


class Lifecycle(Opened):
    """Methods raise NotFound for what the tenant does not have, InvalidName, Conflict."""

    def promote(
        self,
        tenant: str,
        ref: str,
        alias: str,
        *,
        expected: int | None = None,
        gates: Gates = NO_GATES,
        key: PublicKey | None = None,
    ) -> Version:
        """Let `alias` mean the version of `ref`, at once for everybody; the move is recorded.

        With `expected`, only where the alias means that number now (0: where it does not exist):
        of two who decide from the same state, one gets Conflict. A yanked version is refused,
        a quarantined one with Quarantined.
        Every one of `gates` must hold, a signature by `key`; else GateNotMet has the figures.
        """
        check_name("alias", alias)
        signed = self.evidence.check_signed(tenant, ref, gates, key)
        with self._database.writes.begin() as connection:
            row = index.resolve(connection, tenant, ref)
            if row.quarantined_at is not None:
                raise quarantine.refusal(row)
            _check_expected(connection, row, alias, expected)
            self.evidence.check_gates(connection, row, gates, signed)
            demanded = {"require": gates.texts} if gates.texts else None
            index.move_alias(connection, tenant, row.name, alias, row.number, demanded)
        return self.resolve(tenant, f"{row.name}:{row.number}")

    def rollback(
        self, tenant: str, name: str, alias: str, *, expected: int | None = None
    ) -> Version:
        """Let `alias` mean again what it meant before, as far back as that can still be served.

        Going back twice goes back two steps, never forward again. Yanked, quarantined and deleted
        versions are passed over. `expected` as for `promote`: with it, a retry goes back only once.
        """
        check_name("alias", alias)
        with self._database.writes.begin() as connection:
            now = index.alias_number(connection, tenant, name, alias)
            if expected is not None and now != expected:
                raise _moved_meanwhile(name, alias, expected, now)
            number = _before(connection, tenant, name, alias)
            index.move_alias(connection, tenant, name, alias, number, {"rollback": True})
        return self.resolve(tenant, f"{name}:{number}")

    def alias_history(self, tenant: str, name: str, alias: str) -> list[AliasMove]:
        """Newest first; empty where the alias never was."""
        with self._database.reads.connect() as connection:
            rows = _moves(connection, tenant, name, alias)
        return [
            AliasMove(row.alias, row.number, datetime.fromtimestamp(row.moved_at, UTC))
            for row in reversed(rows)
        ]

    def delete_alias(self, tenant: str, name: str, alias: str, *, force: bool = False) -> None:
        """Raises Conflict while a route goes through it, unless forced: the route then leads to
        its other targets and its fallback."""
        check_name("alias", alias)
        with self._database.writes.begin() as connection:
            _check_adapter(connection, tenant, name)
            if not force:
                routes.check_unrouted(
                    connection, tenant, lambda ref: (ref.name, ref.alias) == (name, alias)
                )
            index.remove_alias(connection, tenant, name, alias)

    def yank(self, tenant: str, ref: str, reason: str = "") -> Version:
        """Say that nobody should begin to use this version, and why.

        As PyPI (PEP 592) and cargo do it: whoever asks for exactly this number or digest gets it,
        and aliases that mean it already keep serving; no alias can be moved to it any more.
        """
        # People read it at a terminal.
        words = printable(reason)[:MAX_REASON_CHARS]
        return self._set_yanked(tenant, ref, time.time(), words or None)

    def unyank(self, tenant: str, ref: str) -> Version:
        return self._set_yanked(tenant, ref, None, None)

    def _set_yanked(self, tenant: str, ref: str, at: float | None, reason: str | None) -> Version:
        number = _exact(ref)
        with self._database.writes.begin() as connection:
            row = index.resolve(connection, tenant, ref)
            same = (row.yanked_at is None) == (at is None) and row.yank_reason == reason
            if not same:
                mine = (versions.c.id == row.id,)
                values = {"yanked_at": at, "yank_reason": reason}
                connection.execute(update(versions).where(*mine).values(**values))
                record(connection, tenant, "version", f"{row.name}:{number}")
                action, detail = ("yank", {"reason": reason}) if at else ("unyank", {})
                audit.record(connection, tenant, action, f"{row.name}:{number}", detail)
        return self.look_at(tenant, f"{row.name}:{number}")

    def delete_version(self, tenant: str, ref: str, *, force: bool = False) -> None:
        """From now on this number means nothing; it is never given to another version.

        Raises Conflict while an alias means it or a route names it, unless forced: the aliases
        are deleted with it, and routes lead to their other targets and their fallback.
        """
        _exact(ref)
        with self._database.writes.begin() as connection:
            row = index.resolve(connection, tenant, ref, deleted=True)
            if row.deleted_at is None:
                _delete(connection, [row], force)

    def delete_adapter(self, tenant: str, name: str, *, force: bool = False) -> None:
        """Delete all versions, as `delete_version` does. Numbers go on if the name comes back."""
        check_name("adapter", name)
        with self._database.writes.begin() as connection:
            _check_adapter(connection, tenant, name)
            _delete(connection, index.version_rows(connection, tenant, name), force)

    # Lists, page by page

    def adapter_page(
        self, tenant: str, *, after: str | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[AdapterSummary]:
        """By name; `after` is the last name of the page before."""
        with self._database.reads.connect() as connection:
            return listing.adapter_page(connection, tenant, after, _checked(limit))

    def adapter(self, tenant: str, name: str) -> AdapterSummary:
        """Raises NotFound."""
        with self._database.reads.connect() as connection:
            return listing.adapter(connection, tenant, name)

    def alias_page(
        self,
        tenant: str,
        adapter: str | None = None,
        *,
        after: str | None = None,
        limit: int = DEFAULT_LIMIT,
    ) -> Page[AliasSummary]:
        """By adapter and alias, all or one adapter's; `after` is the last `NAME@ALIAS` before."""
        behind = parse_ref(after) if after is not None else None
        if after is not None and (behind is None or behind.alias is None):
            raise InvalidName(f"after: {after[:80]!r} is not NAME@ALIAS")
        pair = (behind.name, behind.alias or "") if behind else None
        with self._database.reads.connect() as connection:
            return listing.alias_page(connection, tenant, adapter, pair, _checked(limit))

    def version_page(
        self, tenant: str, name: str, *, after: int | None = None, limit: int = DEFAULT_LIMIT
    ) -> Page[VersionSummary]:
        """Newest first; `after` is the last number of the page before."""
        with self._database.reads.connect() as connection:
            return listing.version_page(connection, tenant, name, after, _checked(limit))


def _checked(limit: int) -> int:
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidName(f"limit: {limit} is not 1 to {MAX_LIMIT}")
    return limit


def _exact(ref: str) -> int:
    parsed = parse_ref(ref)
    if parsed is None or parsed.number is None:
        raise InvalidName(f"reference {ref[:80]!r}: say which version, as NAME:NUMBER")
    return parsed.number


def _check_adapter(connection: Connection, tenant: str, name: str) -> None:
    mine = (versions.c.tenant == tenant, versions.c.name == name)
    if connection.scalar(select(versions.c.id).where(*mine).limit(1)) is None:
        raise index.unknown(name)


def _check_expected(
    connection: Connection, row: Row[Any], alias: str, expected: int | None
) -> None:
    now = index.alias_number(connection, row.tenant, row.name, alias)
    if expected is not None and (now or 0) != expected:
        raise _moved_meanwhile(row.name, alias, expected, now)


def _moved_meanwhile(name: str, alias: str, expected: int, now: int | None) -> Conflict:
    means = f"version {now}" if now else "nothing"
    return Conflict(
        f"alias {alias!r} of {name!r} means {means} now, not {expected}: somebody has moved it "
        "meanwhile; look again and decide anew"
    )


def _moves(connection: Connection, tenant: str, name: str, alias: str) -> list[Row[Any]]:
    """Oldest first."""
    where = [
        alias_moves.c[column] == value
        for column, value in (("tenant", tenant), ("name", name), ("alias", alias))
    ]
    return list(connection.execute(select(alias_moves).where(*where).order_by(alias_moves.c.id)))


def _before(connection: Connection, tenant: str, name: str, alias: str) -> int:
    """The number that `alias` meant before. A move to where it came from was a step back."""
    steps: list[int] = []
    for move in _moves(connection, tenant, name, alias):
        if move.number is None:
            continue
        if steps[-2:-1] == [move.number]:
            steps.pop()
        elif steps[-1:] != [move.number]:
            steps.append(move.number)
    if not steps:
        raise NotFound(f"adapter {name!r} has never had an alias {alias!r}")
    mine = (versions.c.tenant == tenant, versions.c.name == name)
    out = (versions.c.deleted_at, versions.c.yanked_at, versions.c.quarantined_at)
    usable = [since.is_(None) for since in out]
    query = select(versions.c.number).where(*mine, *usable, versions.c.number.in_(steps))
    can_serve = set(connection.scalars(query))
    for number in reversed(steps[:-1]):
        if number in can_serve and number != steps[-1]:
            return number
    raise Conflict(f"alias {alias!r} of {name!r} has no earlier version to go back to")


def _delete(connection: Connection, rows: list[Row[Any]], force: bool) -> None:
    numbers = {row.number for row in rows}
    if not rows:
        return
    tenant, name = rows[0].tenant, rows[0].name
    held = [alias for row in rows for alias in (row.aliases or "").split(",") if alias]
    if held and not force:
        raise Conflict(
            f"{name}@{held[0]} means one of these versions: move it first, or delete by force"
        )
    if not force:
        routes.check_unrouted(
            connection, tenant, lambda ref: ref.name == name and ref.number in numbers
        )
    for alias in held:
        index.remove_alias(connection, tenant, name, alias)
    of_adapter = (versions.c.tenant == tenant, versions.c.name == name)
    gone = update(versions).where(*of_adapter, versions.c.number.in_(numbers))
    connection.execute(gone.values(deleted_at=time.time()))
    for number in sorted(numbers):
        record(connection, tenant, "version", f"{name}:{number}")
        audit.record(connection, tenant, "delete version", f"{name}:{number}")
