"""Tenants and their API keys. A key's secret is 256 random bits, shown once and stored hashed.

Refuses to know requests: the server asks who owns a secret, and decides what that one may do.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from sqlalchemy import Connection, select

from rootstock_registry import audit
from rootstock_registry.changes import record
from rootstock_registry.errors import Conflict, InvalidName
from rootstock_registry.index import check_tenant
from rootstock_registry.model import api_keys, tenants
from rootstock_registry.names import check_name
from rootstock_registry.records import ROLES, KeyOwner


def create_tenant(connection: Connection, name: str) -> None:
    check_name("tenant", name)
    if connection.scalar(select(tenants.c.name).where(tenants.c.name == name)) is not None:
        raise Conflict(f"tenant {name!r} already exists")
    connection.execute(tenants.insert().values(name=name, created_at=time.time()))
    record(connection, name, "tenant", name)
    audit.record(connection, name, "create tenant", name)


def tenant_names(connection: Connection) -> list[str]:
    return list(connection.scalars(select(tenants.c.name).order_by(tenants.c.name)))


def create_key(connection: Connection, tenant: str, role: str) -> tuple[str, str]:
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
        )
    )
    record(connection, tenant, "key", key_id)
    audit.record(connection, tenant, "create key", key_id, {"role": role})
    return key_id, secret


def key_owner(connection: Connection, secret: str) -> KeyOwner | None:
    # A plain hash is enough for 256 random bits: there is nothing to guess from.
    digest = hashed(secret)
    row = connection.execute(select(api_keys).where(api_keys.c.secret_sha256 == digest)).first()
    if row is None or not hmac.compare_digest(row.secret_sha256, digest):
        return None
    return KeyOwner(row.tenant, row.role, row.id)


def hashed(secret: str) -> str:
    """As a key's secret is stored."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
