"""Tenants and their API keys. A key's secret is 256 random bits, shown once and stored hashed.

Refuses to know requests: the server asks who owns a secret, and decides what that one may do.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from rootstock_registry import audit
from rootstock_registry.changes import record
from rootstock_registry.errors import Conflict, InvalidName, NotFound
from rootstock_registry.index import check_tenant
from rootstock_registry.model import api_keys, tenants
from rootstock_registry.names import check_name
from rootstock_registry.records import ROLES, ApiKey


def create_tenant(connection: Connection, name: str) -> None:
    check_name("tenant", name)
    if connection.scalar(select(tenants.c.name).where(tenants.c.name == name)) is not None:
        raise Conflict(f"tenant {name!r} already exists")
    connection.execute(tenants.insert().values(name=name, created_at=time.time()))
    record(connection, name, "tenant", name)
    audit.record(connection, name, "create tenant", name)


def tenant_names(connection: Connection) -> list[str]:
    return list(connection.scalars(select(tenants.c.name).order_by(tenants.c.name)))


def create_key(
    connection: Connection, tenant: str, role: str, expires_at: datetime | None
) -> tuple[str, str]:
    """`(key id, secret)`. The secret is nowhere else: lost means made anew."""
    if role not in ROLES:
        raise InvalidName(f"role {role[:80]!r} is none of {', '.join(ROLES)}")
    check_tenant(connection, tenant)
    key_id, secret = f"key_{secrets.token_hex(8)}", f"rsk_{secrets.token_urlsafe(32)}"
    connection.execute(
        api_keys.insert().values(
            id=key_id,
            tenant=tenant,
            role=role,
            secret_sha256=hashed(secret),
            created_at=time.time(),
            expires_at=None if expires_at is None else expires_at.timestamp(),
        )
    )
    record(connection, tenant, "key", key_id)
    until = {} if expires_at is None else {"expires_at": expires_at.isoformat()}
    audit.record(connection, tenant, "create key", key_id, {"role": role} | until)
    return key_id, secret


def keys(connection: Connection, tenant: str) -> list[ApiKey]:
    """Oldest first, those that have ended, too."""
    check_tenant(connection, tenant)
    query = select(api_keys).where(api_keys.c.tenant == tenant)
    ordered = query.order_by(api_keys.c.created_at, api_keys.c.id)
    return [_key(row) for row in connection.execute(ordered)]


def revoke_key(connection: Connection, tenant: str, key_id: str) -> ApiKey:
    """Idempotent: the first time counts. Raises NotFound."""
    check_tenant(connection, tenant)
    mine = (api_keys.c.tenant == tenant, api_keys.c.id == key_id)
    row = connection.execute(select(api_keys).where(*mine)).first()
    if row is None:
        raise NotFound(f"tenant {tenant!r} has no key {key_id[:80]!r}")
    if row.revoked_at is not None:
        return _key(row)
    connection.execute(api_keys.update().where(*mine).values(revoked_at=time.time()))
    record(connection, tenant, "key", key_id)
    audit.record(connection, tenant, "revoke key", key_id)
    return _key(connection.execute(select(api_keys).where(*mine)).one())


def by_secret(connection: Connection, secret: str) -> ApiKey | None:
    """The key whose secret this is, one that has ended, too: its state says what it still is."""
    # A plain hash is enough for 256 random bits: there is nothing to guess from.
    digest = hashed(secret)
    row = connection.execute(select(api_keys).where(api_keys.c.secret_sha256 == digest)).first()
    if row is None or not hmac.compare_digest(row.secret_sha256, digest):
        return None
    return _key(row)


def _key(row: Row[Any]) -> ApiKey:
    expires, revoked = row.expires_at, row.revoked_at
    return ApiKey(
        id=row.id,
        tenant=row.tenant,
        role=row.role,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        expires_at=None if expires is None else datetime.fromtimestamp(expires, UTC),
        revoked_at=None if revoked is None else datetime.fromtimestamp(revoked, UTC),
    )


def hashed(secret: str) -> str:
    """As a key's secret is stored."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
