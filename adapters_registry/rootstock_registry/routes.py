"""A tenant's rules from a task to weighted versions.

Refuses to choose: which target answers a request is the server's business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, select

from rootstock_registry import audit, index
from rootstock_registry.changes import record
from rootstock_registry.database import upsert
from rootstock_registry.errors import Conflict, InvalidName, NotFound
from rootstock_registry.model import routes
from rootstock_registry.names import Ref, check_name, parse_ref
from rootstock_registry.records import Route

MAX_TARGETS = 16
MAX_WEIGHT = 1_000_000


def set_route(connection: Connection, route: Route) -> None:
    """Store `route`. Raises NotFound where a target means nothing to the tenant now."""
    check_name("task", route.task)
    index.check_tenant(connection, route.tenant)
    if not 1 <= len(route.targets) <= MAX_TARGETS:
        raise InvalidName(f"task {route.task!r}: give 1 to {MAX_TARGETS} targets")
    for ref, weight in route.targets.items():
        if not 1 <= weight <= MAX_WEIGHT:
            raise InvalidName(f"target {ref[:80]!r}: weight {weight} is not 1 to {MAX_WEIGHT}")
    for ref in (*route.targets, *([] if route.fallback is None else [route.fallback])):
        index.resolve(connection, route.tenant, ref)
    row = {
        "tenant": route.tenant,
        "task": route.task,
        "targets": json.dumps(dict(route.targets)),
        "fallback": route.fallback,
    }
    upsert(connection, routes, row, key=["tenant", "task"])
    record(connection, route.tenant, "route", route.task)
    detail = {"targets": dict(route.targets), "fallback": route.fallback}
    audit.record(connection, route.tenant, "set route", route.task, detail)


def check_unrouted(connection: Connection, tenant: str, meant: Callable[[Ref], bool]) -> None:
    """Raises Conflict where a route of the tenant names a reference that is `meant`."""
    for each in route_list(connection, tenant):
        for text in (*each.targets, *([each.fallback] if each.fallback else [])):
            ref = parse_ref(text)
            if ref is not None and meant(ref):
                raise Conflict(
                    f"the route of task {each.task!r} leads to {text}: set it anew first, "
                    "or delete by force"
                )


def route(connection: Connection, tenant: str, task: str) -> Route:
    query = select(routes).where(routes.c.tenant == tenant, routes.c.task == task)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"task {task[:80]!r} has no route; set one with: rootstock route set TASK …")
    return _route(row)


def route_list(connection: Connection, tenant: str) -> list[Route]:
    query = select(routes).where(routes.c.tenant == tenant).order_by(routes.c.task)
    return [_route(row) for row in connection.execute(query)]


def _route(row: Row[Any]) -> Route:
    targets: Mapping[str, int] = json.loads(row.targets)
    return Route(row.tenant, row.task, targets, row.fallback)
