"""Garbage collection: blobs that no row names are marked, and deleted a grace period later.

One collector at a time, by lease; one that lost its lease deletes nothing. Running requests are
safe because an engine reads an adapter's bytes into its own memory: only who has resolved a version
and not yet fetched its blobs needs them, and has the grace period for it. Refuses to know why a
blob is not needed.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Connection, delete, select, update

from rootstock_registry import audit, leases
from rootstock_registry.blobs import BlobStore
from rootstock_registry.database import Database
from rootstock_registry.errors import Conflict
from rootstock_registry.keeping import MARK, needed
from rootstock_registry.model import leases as lease_rows

DEFAULT_GRACE_S = 24 * 3600.0
_LEASE_NAME = "garbage collection"
_LEASE_S = 60.0
_BATCH = 500
# Writers wait while a batch is deleted.
_SWEEP_BATCH = 20
# Nobody writes one blob for longer than this: what is older was left by a killed process.
_ABANDONED_S = 3600.0


@dataclass(frozen=True)
class Collection:
    """What a collection found and did; sizes in bytes.

    `garbage` blobs are named by no row and older than the grace period. Of these, `marked` were
    found for the first time and `swept` (with those marked a grace period ago) were deleted.
    `abandoned` counts files of puts that were killed. In a dry run nothing is marked or deleted.
    """

    blobs: int
    size: int
    garbage: int
    garbage_size: int
    marked: int = 0
    swept: int = 0
    swept_size: int = 0
    abandoned: int = 0


def collect(
    database: Database,
    blobs: BlobStore,
    grace_s: float = DEFAULT_GRACE_S,
    dry_run: bool = False,
) -> Collection:
    """Mark what is garbage now, delete what was marked at least `grace_s` seconds ago.

    With `grace_s` 0 both happen at once. Raises Conflict where another collector is at work or has
    taken over, Unavailable.
    """
    scan = _Scan(database, blobs, grace_s)
    if dry_run:
        for found in scan.batches():
            scan.garbage |= found
        return scan.figures()
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    with database.writes.begin() as connection:
        lease = leases.take(connection, _LEASE_NAME, owner, _LEASE_S)
    try:
        return _Collector(scan, lease).run()
    finally:
        with suppress(Conflict), database.writes.begin() as connection:
            leases.release(connection, lease)


class _Scan:
    """Goes through all blobs once, counting; `garbage` is what its user has found to be such."""

    def __init__(self, database: Database, blobs: BlobStore, grace_s: float) -> None:
        self.database = database
        self.blobs = blobs
        self.grace_s = grace_s
        self.garbage: dict[str, int] = {}  # digest: size
        self._count = 0
        self._size = 0

    def batches(self) -> Iterator[dict[str, int]]:
        """The digests and sizes of old blobs that no row names, so many blobs at a time."""
        before = time.time() - self.grace_s
        entries = self.blobs.entries()
        while batch := list(islice(entries, _BATCH)):
            self._count += len(batch)
            self._size += sum(entry.size for entry in batch)
            old = {entry.digest: entry.size for entry in batch if entry.modified_at <= before}
            with self.database.reads.connect() as connection:
                kept = needed(connection, list(old))
            yield {digest: size for digest, size in old.items() if digest not in kept}

    def figures(self, **done: int) -> Collection:
        garbage = self.garbage
        return Collection(self._count, self._size, len(garbage), sum(garbage.values()), **done)


class _Collector:
    def __init__(self, scan: _Scan, lease: leases.Lease) -> None:
        self._scan = scan
        self._lease = lease
        self._database = scan.database
        self._blobs = scan.blobs
        self._renew_at = 0.0

    def run(self) -> Collection:
        marked = 0
        for found in self._scan.batches():
            if found or time.monotonic() > self._renew_at:
                marked += self._mark(found)
        sizes = self._scan.garbage
        swept = [sizes[digest] for digest in self._sweep() if digest in sizes]
        abandoned = self._blobs.tidy(max(self._scan.grace_s, _ABANDONED_S))
        return self._scan.figures(
            marked=marked, swept=len(swept), swept_size=sum(swept), abandoned=abandoned
        )

    def _mark(self, found: dict[str, int]) -> int:
        """How many of `found` had no mark yet."""
        with self._database.writes.begin() as connection:
            self._hold(connection)
            # Asked again: a mark on what was named meanwhile would outlast its being needed.
            kept = needed(connection, list(found))
            garbage = {digest: size for digest, size in found.items() if digest not in kept}
            self._scan.garbage |= garbage
            return self._set_marks(connection, [MARK + digest for digest in garbage])

    def _set_marks(self, connection: Connection, names: list[str]) -> int:
        until = time.time() + self._scan.grace_s
        marks = lease_rows.c.name.in_(names)
        known = set(connection.scalars(select(lease_rows.c.name).where(marks)))
        # A shorter grace period than last time counts from now.
        later = marks & (lease_rows.c.expires_at > until)
        connection.execute(update(lease_rows).where(later).values(expires_at=until))
        row = {"owner": "readers", "fence": self._lease.fence, "expires_at": until}
        new = [row | {"name": name} for name in names if name not in known]
        if new:
            connection.execute(lease_rows.insert(), new)
        return len(new)

    def _sweep(self) -> list[str]:
        """The digests deleted; each batch in one transaction with the check that allows it."""
        swept: list[str] = []
        while True:
            with self._database.writes.begin() as connection:
                self._hold(connection)
                due = self._due(connection)
                if not due:
                    return swept
                digests = [name.removeprefix(MARK) for name in due]
                kept = needed(connection, digests)
                garbage = [digest for digest in digests if digest not in kept]
                # Killed before the commit, the marks stay: the next collection goes on from here.
                self._blobs.delete(garbage)
                connection.execute(delete(lease_rows).where(lease_rows.c.name.in_(due)))
                if garbage:
                    audit.record(connection, None, "collect garbage", "blobs", {"blobs": garbage})
            swept += garbage

    def _due(self, connection: Connection) -> list[str]:
        name = lease_rows.c.name
        marks = name.startswith(MARK, autoescape=True)
        query = select(name).where(marks, lease_rows.c.expires_at <= time.time())
        return list(connection.scalars(query.limit(_SWEEP_BATCH)))

    def _hold(self, connection: Connection) -> None:
        """In each transaction that marks or deletes: a collector that was taken over stops here."""
        leases.renew(connection, self._lease, _LEASE_S)
        self._renew_at = time.monotonic() + _LEASE_S / 3
