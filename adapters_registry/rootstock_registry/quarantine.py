"""Versions whose stored bytes are damaged: found by reading them, marked, and let go again.

A mark says of a version that nobody is answered with it, so that what is known to be damaged is not
read again for every request. Refuses to know who noticed, and what the bytes mean.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from rootstock_registry import audit, index
from rootstock_registry.blob_names import key_of
from rootstock_registry.blobs import BlobStore
from rootstock_registry.changes import record
from rootstock_registry.database import Database
from rootstock_registry.errors import CorruptBlob, NotFound, Quarantined
from rootstock_registry.manifest import Manifest
from rootstock_registry.model import versions

_WHOLE = {"quarantined_at": None, "quarantine_reason": None}


@dataclass(frozen=True)
class Damage:
    """`what` of a version (its manifest, a part) is damaged, and how; `blob` where its bytes are.

    Without a `blob`, it is not a stored byte that is wrong but the row that names it.
    """

    what: str
    how: str
    blob: str | None = None

    def __str__(self) -> str:
        return f"{self.what}: {self.how}"


@dataclass(frozen=True)
class Inspection:
    """What reading every byte of a version has found; `damage` says it, None where there is none.

    The version and others of the same content were marked by this: `quarantined` of them; or were
    marked before and are whole again: `released`.
    """

    digest: str
    damage: str | None
    quarantined: int = 0
    released: int = 0


def inspect(database: Database, blobs: BlobStore, tenant: str, ref: str) -> Inspection:
    """Read and hash every stored byte of the version of `ref`; mark or release it.

    What cannot be read just now is not damaged: Unavailable is raised, and nothing changes. Raises
    NotFound for what the tenant does not have.
    """
    with database.reads.connect() as connection:
        row = index.resolve(connection, tenant, ref)
        wrong = in_row(connection, row)
    found = [wrong] if wrong else _in_blobs(blobs, row.digest)
    if found:
        return _quarantine(database, blobs, row, found)
    if row.quarantined_at is None:
        return Inspection(row.digest, None)
    with database.writes.begin() as connection:
        return Inspection(row.digest, None, released=release(connection, row.digest))


def _quarantine(
    database: Database, blobs: BlobStore, row: Row[Any], found: Sequence[Damage]
) -> Inspection:
    with database.writes.begin() as connection:
        # Read again now that nobody else can register: either a publish has repaired the bytes
        # since, or it comes after this mark and takes it away.
        still = [each for each in found if not each.blob or _trouble(blobs, each.blob)]
        if not still:
            return Inspection(row.digest, None)
        return Inspection(row.digest, _words(still), quarantined=_mark(connection, row, still))


def refusal(row: Row[Any]) -> Quarantined:
    """Why the version of `row`, which is quarantined, is not answered with."""
    since = datetime.fromtimestamp(row.quarantined_at, UTC).isoformat(timespec="seconds")
    ref = f"{row.name}:{row.number}"
    return Quarantined(
        f"{ref} is quarantined since {since}: {row.quarantine_reason}. Publish or import the same "
        f"content again, or bring its stored bytes back and run: rootstock verify {ref}"
    )


def release(connection: Connection, digest: str) -> int:
    """Take the marks from all versions of this content, whose blobs are whole; how many had one.

    The caller is the writer.
    """
    marked = (versions.c.digest == digest, versions.c.quarantined_at.is_not(None))
    rows = [row for row in _rows(connection, *marked) if not in_row(connection, row)]
    for row in rows:
        connection.execute(update(versions).where(versions.c.id == row.id).values(**_WHOLE))
        _tell(connection, row, "release", {"digest": digest})
    return len(rows)


def in_row(connection: Connection, row: Row[Any]) -> Damage | None:
    """Where the row names other content than the audit log, which is chained, has published."""
    published = audit.published(connection, row.tenant, f"{row.name}:{row.number}")
    if published in (None, row.digest):
        return None
    how = f"it names {row.digest}, but {published} was published"
    return Damage("its row in the database", how)


def _in_blobs(blobs: BlobStore, digest: str) -> list[Damage]:
    if how := _trouble(blobs, digest):
        return [Damage("manifest", how, digest)]
    try:
        manifest = Manifest.parse(blobs.get_stored(digest))
    except CorruptBlob:
        return []  # the very bytes that were published: another program can read them
    named = [(f"part {n} ({part.kind})", part.blob) for n, part in enumerate(manifest.parts, 1)]
    return [Damage(what, how, blob) for what, blob in named if (how := _trouble(blobs, blob))]


def _trouble(blobs: BlobStore, digest: str) -> str | None:
    """What is wrong with this blob; None where it is whole."""
    try:
        blobs.get_stored(digest)
    except NotFound:
        return f"blob {digest} is not stored"
    except CorruptBlob:
        return f"the bytes of blob {digest} no longer match its digest"
    return None


def _mark(connection: Connection, row: Row[Any], found: Sequence[Damage]) -> int:
    """Mark the version of `row`, and all others that share its damaged bytes; how many are new."""
    same = versions.c.digest == row.digest if found[0].blob else versions.c.id == row.id
    unmarked = (same, versions.c.deleted_at.is_(None), versions.c.quarantined_at.is_(None))
    rows = _rows(connection, *unmarked)
    values = {"quarantined_at": time.time(), "quarantine_reason": _words(found)}
    detail = {"digest": row.digest, "damaged": [_place(each) for each in found]}
    for each in rows:
        connection.execute(update(versions).where(versions.c.id == each.id).values(**values))
        _tell(connection, each, "quarantine", detail)
    return len(rows)


def _rows(connection: Connection, *where: Any) -> list[Row[Any]]:
    return list(connection.execute(select(versions).where(*where).order_by(versions.c.id)))


def _tell(connection: Connection, row: Row[Any], action: str, detail: dict[str, Any]) -> None:
    ref = f"{row.name}:{row.number}"
    record(connection, row.tenant, "version", ref)
    audit.record(connection, row.tenant, action, ref, detail)


def _words(found: Sequence[Damage]) -> str:
    return "; ".join(map(str, found))


def _place(damage: Damage) -> dict[str, str]:
    """For who has to mend it: which part, and which file below the blobs' folder or bucket."""
    said = {"what": damage.what, "how": damage.how}
    try:
        return said | {"file": key_of(damage.blob)} if damage.blob else said
    except NotFound:  # no digest at all: there is no such file
        return said
