"""Blobs and the rows that need them: stored before they are named, kept as long as they are.

One transaction writes at a time. Garbage collection deletes inside one; a transaction that names
blobs begins by looking whether they are all there. So whichever of the two comes first, either the
collector sees the row, or the writer sees that the blob is gone: no clock takes part. Refuses to
know what blobs mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection, Select, delete, select, union

from rootstock_registry.blobs import BlobStore
from rootstock_registry.database import Database
from rootstock_registry.errors import Unavailable
from rootstock_registry.model import leases, parts, versions
from rootstock_registry.model_work import checkpoints, datasets, features, files

T = TypeVar("T")

# A mark is a lease of the blob's readers: until it runs out, who has just resolved a version that
# was then deleted can still fetch it.
MARK = "garbage/"
_TRIES = 5

_LIVE = versions.c.deleted_at.is_(None)
# Every column that names a blob. A table that gets one is added here.
ROOTS = {
    versions.c.digest: select(versions.c.digest).where(_LIVE),
    parts.c.blob: select(parts.c.blob)
    .join(versions, versions.c.digest == parts.c.version_digest)
    .where(_LIVE),
    files.c.digest: select(files.c.digest),
    datasets.c.digest: select(datasets.c.digest),
    features.c.blob: select(features.c.blob),
    checkpoints.c.blob: select(checkpoints.c.blob),
}


def store(
    database: Database,
    blobs: BlobStore,
    contents: Sequence[bytes],
    register: Callable[[Connection], T],
) -> T:
    """Put `contents`, then call `register` in the transaction that is to name them.

    Raises StorageFull, Unavailable, and what `register` raises; then nothing is named.
    """
    for _ in range(_TRIES):
        digests = [blobs.put(content) for content in contents]
        with database.writes.begin() as connection:
            if keep(connection, blobs, digests):
                return register(connection)
    raise Unavailable("blobs vanish as fast as they are stored: is their folder cleaned?")


def keep(connection: Connection, blobs: BlobStore, digests: Sequence[str]) -> bool:
    """Whether `digests` are stored and stay so, once this write transaction has named them.

    The first thing to do in it. On False, roll back, put them again and begin anew.
    """
    if blobs.missing(digests):
        return False
    marks = [MARK + digest for digest in digests]
    connection.execute(delete(leases).where(leases.c.name.in_(marks)))
    return True


def needed(connection: Connection, digests: Sequence[str]) -> set[str]:
    """Those of `digests` (a thousand at most) that some row names."""
    queries: list[Select[tuple[str]]] = [
        query.where(column.in_(digests)) for column, query in ROOTS.items()
    ]
    return set(connection.scalars(union(*queries)))
