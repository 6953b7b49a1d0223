"""Named leases with a fencing token: rows that say who may do a thing, and until when.

A lease that ran out is anybody's; its late holder finds the token changed and stops (Kleppmann,
"How to do distributed locking", 2016). Refuses to know what is being leased.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from rootstock_registry.errors import Conflict
from rootstock_registry.model import leases


@dataclass(frozen=True)
class Lease:
    """`fence` grows with every taking, also after a release: an old one never counts again."""

    name: str
    owner: str
    fence: int


def take(connection: Connection, name: str, owner: str, lease_s: float) -> Lease:
    """Raises Conflict where somebody else holds it. The caller is the only one taking it now."""
    now = time.time()
    row = connection.execute(select(leases).where(leases.c.name == name)).first()
    if row is None:
        values = {"name": name, "owner": owner, "fence": 1, "expires_at": now + lease_s}
        connection.execute(leases.insert().values(**values))
        return Lease(name, owner, 1)
    if row.expires_at > now:
        raise Conflict(
            f"{name} is held by {row.owner}; "
            f"try again in {row.expires_at - now:.0f} s at the latest"
        )
    lease = Lease(name, owner, row.fence + 1)
    connection.execute(
        update(leases)
        .where(leases.c.name == name)
        .values(owner=owner, fence=lease.fence, expires_at=now + lease_s)
    )
    return lease


def renew(connection: Connection, lease: Lease, lease_s: float) -> None:
    """Hold it for `lease_s` from now. Raises Conflict where it was taken over: change nothing."""
    held = (leases.c.name == lease.name) & (leases.c.fence == lease.fence)
    values = {"expires_at": time.time() + lease_s}
    if connection.execute(update(leases).where(held).values(**values)).rowcount != 1:
        raise Conflict(f"{lease.name} is no longer held by {lease.owner}: it was taken over")


def release(connection: Connection, lease: Lease) -> None:
    """Anybody's from now on. The row stays, so that its token goes on growing."""
    held = (leases.c.name == lease.name) & (leases.c.fence == lease.fence)
    connection.execute(update(leases).where(held).values(expires_at=0.0))
