"""The registry's tables. Times are seconds since 1970 (UTC), documents are JSON text.

Refuses to know the queries; the same tables are made by `migrations/`.
"""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

tenants = Table(
    "tenants",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("created_at", Float, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", ForeignKey("tenants.name"), nullable=False),
    Column("role", String(16), nullable=False),
    Column("secret_sha256", String(64), nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
)

bases = Table(
    "bases",
    metadata,
    Column("fingerprint", String(71), primary_key=True),
    Column("card", Text, nullable=False),
)

base_names = Table(
    "base_names",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("fingerprint", ForeignKey("bases.fingerprint"), nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant", ForeignKey("tenants.name"), nullable=False),
    Column("name", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", String(71), nullable=False),
    Column("base_fingerprint", ForeignKey("bases.fingerprint"), nullable=False),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("tenant", "name", "number"),
    UniqueConstraint("tenant", "name", "digest"),
    Index("versions_by_digest", "digest"),
    Index("versions_by_name", "name"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("alias", String(64), primary_key=True),
    Column("number", Integer, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "name", "number"], ["versions.tenant", "versions.name", "versions.number"]
    ),
)

# Every move of an alias, oldest first: what answered last Tuesday can be said next month.
alias_moves = Table(
    "alias_moves",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("alias", String(64), nullable=False),
    Column("number", Integer, nullable=False),
    Column("moved_at", Float, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "name", "number"], ["versions.tenant", "versions.name", "versions.number"]
    ),
)

routes = Table(
    "routes",
    metadata,
    Column("tenant", ForeignKey("tenants.name"), primary_key=True),
    Column("task", String(64), primary_key=True),
    Column("targets", Text, nullable=False),
    Column("fallback", String(200)),
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("tenant", ForeignKey("tenants.name"), nullable=False),
    Column("spec", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("owner", String(200)),
    Column("lease_expires_at", Float),
    Column("fence", Integer, nullable=False),
    Column("progress", Text, nullable=False),
    Column("error", Text),
    Column("version_digest", String(71)),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed')", name="jobs_state"),
    Index("jobs_by_state", "state", "seq"),
    Index("jobs_by_tenant", "tenant", "seq"),
)
