"""Files that tenants have uploaded: names, sizes and digests; the bytes are blobs.

Refuses to know what is in them.
"""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, and_, delete, func, or_, select

from rootstock_registry import audit
from rootstock_registry.errors import Conflict, InvalidName, NotFound
from rootstock_registry.index import check_tenant
from rootstock_registry.model_work import files
from rootstock_registry.records_work import StoredFile

MAX_FILENAME_CHARS = 255


def check_room(connection: Connection, tenant: str, size: int, most: int) -> None:
    """Raises Conflict where the tenant's files would be larger than `most` bytes together."""
    check_tenant(connection, tenant)
    query = select(func.sum(files.c.bytes)).where(files.c.tenant == tenant)
    held = int(connection.scalar(query) or 0)
    if held + size > most:
        raise Conflict(
            f"the files of this tenant hold {held} bytes; with {size} more they would be over "
            f"{most}: delete some first"
        )


def add(
    connection: Connection, tenant: str, filename: str, purpose: str, size: int, digest: str
) -> StoredFile:
    check_tenant(connection, tenant)
    if not filename or len(filename) > MAX_FILENAME_CHARS or not filename.isprintable():
        raise InvalidName(f"filename must have 1 to {MAX_FILENAME_CHARS} printable characters")
    row = {"id": f"file-{secrets.token_hex(12)}", "tenant": tenant, "filename": filename}
    row |= {"purpose": purpose, "digest": digest}
    connection.execute(files.insert().values(**row, bytes=size, created_at=time.time()))
    audit.record(connection, tenant, "add file", row["id"], {"digest": digest})
    return get(connection, tenant, row["id"])


def get(connection: Connection, tenant: str, file_id: str) -> StoredFile:
    """Raises NotFound; for another tenant's file, exactly as for one that does not exist."""
    query = select(files).where(files.c.tenant == tenant, files.c.id == file_id)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"file {file_id[:80]!r} does not exist")
    return _file(row)


def page(
    connection: Connection,
    tenant: str,
    *,
    purpose: str | None = None,
    after: str | None = None,
    limit: int | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> list[StoredFile]:
    """By age, `limit` of them from the one behind `after`. Raises NotFound for `after`."""
    query = select(files).where(files.c.tenant == tenant)
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    age, key = files.c.created_at, files.c.id
    if after is not None:
        get(connection, tenant, after)
        # As stored: a datetime would have rounded it.
        stamp = connection.scalar(select(age).where(files.c.id == after))
        if order == "desc":
            query = query.where(or_(age < stamp, and_(age == stamp, key < after)))
        else:
            query = query.where(or_(age > stamp, and_(age == stamp, key > after)))
    by = (age.desc(), key.desc()) if order == "desc" else (age, key)
    return [_file(row) for row in connection.execute(query.order_by(*by).limit(limit))]


def remove(connection: Connection, tenant: str, file_id: str) -> None:
    """The bytes stay until garbage collection finds that nothing names them."""
    get(connection, tenant, file_id)
    connection.execute(delete(files).where(files.c.tenant == tenant, files.c.id == file_id))
    audit.record(connection, tenant, "delete file", file_id)


def _file(row: Row[Any]) -> StoredFile:
    return StoredFile(
        id=row.id,
        tenant=row.tenant,
        filename=row.filename,
        purpose=row.purpose,
        bytes=row.bytes,
        digest=row.digest,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
    )
