"""Pages of adapters and versions: queries whose cost is that of the page, not of the registry.

Refuses to read manifests: what a list shows is in the tables.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import CTE, Connection, Row, Select, bindparam, func, literal, select
from sqlalchemy.sql.selectable import ScalarSelect

from rootstock_registry.index import OF_ADAPTER, unknown
from rootstock_registry.model import aliases, base_names, parts, versions
from rootstock_registry.opened import when
from rootstock_registry.records import AdapterSummary, AliasSummary, Page, VersionSummary

_ABOVE_ALL = 2**31 - 1
_AT_ONCE = 500
_LIVE = versions.c.deleted_at.is_(None)


def adapter_page(
    connection: Connection, tenant: str, after: str | None, limit: int
) -> Page[AdapterSummary]:
    """Adapters by name, from the first one after the name `after`."""
    values = {"tenant": tenant, "after": after or "", "limit": limit + 1}
    rows = list(connection.execute(_ADAPTERS, values))
    shown, more = rows[:limit], len(rows) > limit
    kinds, bases = _kinds(connection, shown), _base_names(connection, shown)
    moved = _aliases(connection, tenant, [row.name for row in shown])
    summaries = (
        AdapterSummary(
            name=row.name,
            base=bases.get(row.base_fingerprint, row.base_fingerprint),
            kinds=tuple(kind for kind, _ in kinds[row.digest]),
            latest=row.number,
            aliases=moved[row.name],
        )
        for row in shown
    )
    return Page(tuple(summaries), more)


def all_adapters(connection: Connection, tenant: str) -> list[AdapterSummary]:
    """By name, read page by page: no statement grows with the registry."""
    found: list[AdapterSummary] = []
    while True:
        page = adapter_page(connection, tenant, found[-1].name if found else None, _AT_ONCE)
        found += page.data
        if not page.has_more:
            return found


def adapter(connection: Connection, tenant: str, name: str) -> AdapterSummary:
    """As a page shows it. Raises NotFound."""
    yanked_last = (versions.c.yanked_at.is_not(None), versions.c.number.desc())
    query = OF_ADAPTER.order_by(*yanked_last).limit(1)
    rows = list(connection.execute(query, {"tenant": tenant, "name": name}))
    if not rows:
        raise unknown(name)
    kinds, bases = _kinds(connection, rows), _base_names(connection, rows)
    return AdapterSummary(
        name=name,
        base=bases.get(rows[0].base_fingerprint, rows[0].base_fingerprint),
        kinds=tuple(kind for kind, _ in kinds[rows[0].digest]),
        latest=rows[0].number,
        aliases=_aliases(connection, tenant, [name])[name],
    )


def alias_page(
    connection: Connection,
    tenant: str,
    adapter: str | None,
    after: tuple[str, str] | None,
    limit: int,
) -> Page[AliasSummary]:
    """By adapter and alias, from the first one behind the pair `after`; of one `adapter`."""
    query = select(aliases).where(aliases.c.tenant == tenant)
    if adapter is not None:
        query = query.where(aliases.c.name == adapter)
    if after is not None:
        later = (aliases.c.name == after[0]) & (aliases.c.alias > after[1])
        query = query.where((aliases.c.name > after[0]) | later)
    rows = list(
        connection.execute(query.order_by(aliases.c.name, aliases.c.alias).limit(limit + 1))
    )
    summaries = (AliasSummary(row.name, row.alias, row.number) for row in rows[:limit])
    return Page(tuple(summaries), len(rows) > limit)


def version_page(
    connection: Connection, tenant: str, name: str, after: int | None, limit: int
) -> Page[VersionSummary]:
    """Newest first, from the first one below the number `after`."""
    query = OF_ADAPTER.where(versions.c.number < bindparam("after"))
    query = query.order_by(versions.c.number.desc()).limit(limit + 1)
    below = _ABOVE_ALL if after is None else after
    rows = list(connection.execute(query, {"tenant": tenant, "name": name, "after": below}))
    shown, more = rows[:limit], len(rows) > limit
    kinds, bases = _kinds(connection, shown), _base_names(connection, shown)
    summaries = (
        VersionSummary(
            name=row.name,
            number=row.number,
            digest=row.digest,
            base=bases.get(row.base_fingerprint, row.base_fingerprint),
            kinds=tuple(kind for kind, _ in kinds[row.digest]),
            size=sum(size for _, size in kinds[row.digest]),
            aliases=tuple(sorted(row.aliases.split(","))) if row.aliases else (),
            created_at=datetime.fromtimestamp(row.created_at, UTC),
            yanked_at=when(row.yanked_at),
            yank_reason=row.yank_reason,
            quarantined_at=when(row.quarantined_at),
            quarantine_reason=row.quarantine_reason,
        )
        for row in shown
    )
    return Page(tuple(summaries), more)


def _adapters() -> Select[Any]:
    """The tenant's names, each found from the one before: its other versions are not read."""
    mine = (versions.c.tenant == bindparam("tenant"), _LIVE)
    first = select(func.min(versions.c.name).label("name"), literal(1).label("n"))
    names = first.where(*mine, versions.c.name > bindparam("after")).cte("names", recursive=True)
    following = select(func.min(versions.c.name)).where(*mine, versions.c.name > names.c.name)
    step = select(following.correlate(names).scalar_subquery(), names.c.n + 1)
    within = (names.c.name.is_not(None), names.c.n < bindparam("limit"))
    names = names.union_all(step.where(*within))
    latest = func.coalesce(_highest(names, versions.c.yanked_at.is_(None)), _highest(names))
    shown = versions.alias("shown")
    is_latest = (
        (shown.c.tenant == bindparam("tenant"))
        & (shown.c.name == names.c.name)
        & (shown.c.number == latest)
    )
    return select(shown).select_from(names.join(shown, is_latest)).order_by(shown.c.name)


def _highest(names: CTE, *where: Any) -> ScalarSelect[Any]:
    of_name = (versions.c.tenant == bindparam("tenant"), versions.c.name == names.c.name)
    query = select(func.max(versions.c.number)).where(*of_name, _LIVE, *where)
    return query.correlate(names).scalar_subquery()


_ADAPTERS = _adapters()


def _aliases(
    connection: Connection, tenant: str, names: Collection[str]
) -> dict[str, dict[str, int]]:
    """By adapter, what each of its aliases means."""
    moved: dict[str, dict[str, int]] = defaultdict(dict)
    of_page = (aliases.c.tenant == tenant, aliases.c.name.in_(names))
    for alias in connection.execute(select(aliases).where(*of_page).order_by(aliases.c.alias)):
        moved[alias.name][alias.alias] = alias.number
    return moved


def _kinds(connection: Connection, rows: Collection[Row[Any]]) -> dict[str, list[tuple[str, int]]]:
    """By digest, `(kind, bytes)` of each part in order."""
    digests = {row.digest for row in rows}
    query = select(parts).where(parts.c.version_digest.in_(digests)).order_by(parts.c.position)
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for part in connection.execute(query):
        found[part.version_digest].append((part.kind, part.size))
    return found


def _base_names(connection: Connection, rows: Collection[Row[Any]]) -> dict[str, str]:
    """By fingerprint; of several names the first."""
    fingerprints = {row.base_fingerprint for row in rows}
    query = select(base_names).where(base_names.c.fingerprint.in_(fingerprints))
    first_last = connection.execute(query.order_by(base_names.c.name.desc()))
    return {row.fingerprint: row.name for row in first_last}
