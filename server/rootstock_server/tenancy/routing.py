"""Which model reference a tenant's task means for this request: weighted, sticky by user.

Refuses to know what a reference resolves to and whether it can be served.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

from rootstock_registry import Route


def candidates(route: Route, user: str | None) -> list[str]:
    """The references to try, in order: the chosen target, then the route's fallback."""
    chosen = choose(route.targets, _point(route, user))
    refs = [chosen] if chosen else []
    if route.fallback and route.fallback != chosen:
        refs.append(route.fallback)
    return refs


def choose(targets: Mapping[str, int], point: float) -> str | None:
    """The target that owns `point` in [0, 1) when each gets a share by its weight.

    None where no target has a weight. Targets are taken in name order, so that the order in which
    they were written down moves nobody.
    """
    place = point * sum(targets.values())
    for ref in sorted(targets):
        place -= targets[ref]
        if place < 0:
            return ref
    return None


def _point(route: Route, user: str | None) -> float:
    if user is None:
        return random.random()
    key = f"{route.tenant}\0{route.task}\0{user}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:7]) / 2**56
