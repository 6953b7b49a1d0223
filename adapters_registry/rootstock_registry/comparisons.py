"""Comparisons of methods on one dataset: what was asked, by which jobs, and what came of it.

Refuses to know what a spec and a result mean; they are JSON documents.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, select, update

from rootstock_registry.database import Database
from rootstock_registry.errors import Conflict, InvalidArtifact, NotFound
from rootstock_registry.index import check_tenant
from rootstock_registry.model_work import comparisons
from rootstock_registry.records import Page

ComparisonState = Literal["running", "succeeded", "failed"]


@dataclass(frozen=True)
class Comparison:
    """One comparison; `result` is there once it has ended."""

    id: str
    tenant: str
    spec: dict[str, Any]
    state: ComparisonState
    result: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None


def create(connection: Connection, tenant: str, spec: dict[str, Any]) -> Comparison:
    check_tenant(connection, tenant)
    comparison_id = f"cmp_{secrets.token_hex(12)}"
    connection.execute(
        comparisons.insert().values(
            id=comparison_id,
            tenant=tenant,
            spec=_json("spec", spec),
            state="running",
            created_at=time.time(),
        )
    )
    return get(connection, tenant, comparison_id)


def get(connection: Connection, tenant: str, comparison_id: str) -> Comparison:
    """Raises NotFound; for another tenant's, exactly as for one that does not exist."""
    where = (comparisons.c.tenant == tenant, comparisons.c.id == comparison_id)
    row = connection.execute(select(comparisons).where(*where)).first()
    if row is None:
        raise NotFound(f"comparison {comparison_id[:80]!r} does not exist")
    return _comparison(row)


def page(connection: Connection, tenant: str, limit: int, after: str | None) -> Page[Comparison]:
    """The tenant's, newest first, those that follow `after`. Raises NotFound where the tenant has
    no comparison `after`."""
    table = comparisons.c
    query = select(comparisons).where(table.tenant == tenant)
    if after is not None:
        get(connection, tenant, after)
        # As it is stored: a datetime would have rounded it.
        last = select(table.created_at).where(table.id == after).scalar_subquery()
        older = (table.created_at < last) | ((table.created_at == last) & (table.id < after))
        query = query.where(older)
    query = query.order_by(table.created_at.desc(), table.id.desc()).limit(limit + 1)
    found = [_comparison(row) for row in connection.execute(query)]
    return Page(tuple(found[:limit]), len(found) > limit)


def running(connection: Connection) -> list[Comparison]:
    """Every tenant's comparisons that have not ended, oldest first."""
    query = select(comparisons).where(comparisons.c.state == "running")
    rows = connection.execute(query.order_by(comparisons.c.created_at))
    return [_comparison(row) for row in rows]


def finish(
    connection: Connection, comparison: Comparison, result: dict[str, Any], state: ComparisonState
) -> Comparison:
    """Whoever comes second is told so: raises Conflict where it has ended already."""
    held = (comparisons.c.id == comparison.id, comparisons.c.state == "running")
    values = {"state": state, "result": _json("result", result), "finished_at": time.time()}
    if connection.execute(update(comparisons).where(*held).values(**values)).rowcount != 1:
        raise Conflict(f"comparison {comparison.id} has ended already")
    return get(connection, comparison.tenant, comparison.id)


class Comparing:
    """What `Registry` is about comparisons. Every method is one transaction."""

    _database: Database

    def create_comparison(self, tenant: str, spec: dict[str, Any]) -> Comparison:
        with self._database.writes.begin() as connection:
            return create(connection, tenant, spec)

    def comparison(self, tenant: str, comparison_id: str) -> Comparison:
        """Raises NotFound, for a foreign one, too."""
        with self._database.reads.connect() as connection:
            return get(connection, tenant, comparison_id)

    def comparisons(
        self, tenant: str, *, limit: int = 20, after: str | None = None
    ) -> Page[Comparison]:
        """Newest first, from the one behind `after`. Raises NotFound for that one."""
        with self._database.reads.connect() as connection:
            return page(connection, tenant, limit, after)

    def running_comparisons(self) -> list[Comparison]:
        """Every tenant's that have not ended, oldest first: for workers."""
        with self._database.reads.connect() as connection:
            return running(connection)

    def finish_comparison(
        self, comparison: Comparison, result: dict[str, Any], *, failed: bool
    ) -> Comparison:
        """Raises Conflict where it has ended already."""
        with self._database.writes.begin() as connection:
            return finish(connection, comparison, result, "failed" if failed else "succeeded")


def _json(field: str, value: dict[str, Any]) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidArtifact(f"comparison {field} has no JSON form: {error}") from error


def _comparison(row: Row[Any]) -> Comparison:
    ended = row.finished_at
    return Comparison(
        id=row.id,
        tenant=row.tenant,
        spec=json.loads(row.spec),
        state=row.state,
        result=None if row.result is None else json.loads(row.result),
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        finished_at=None if ended is None else datetime.fromtimestamp(ended, UTC),
    )
