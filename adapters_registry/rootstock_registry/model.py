"""The registry's tables: what is published, and who may use it. `model_work.py` has the rest.

Times are seconds since 1970 (UTC), documents are JSON text, digests are `sha256:` and 64 digits.
Refuses to know the queries; the same tables are made by `migrations/`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
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

# Names sort by their bytes on every database, so that pages begin and end at the same places.
Name = String(64).with_variant(String(64, collation="C"), "postgresql")
Digest = String(71)
# SQLite numbers rows by itself only where the key is an INTEGER.
Sequence = BigInteger().with_variant(Integer, "sqlite")

tenants = Table(
    "tenants",
    metadata,
    Column("name", Name, primary_key=True),
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
    # A key that has ended keeps its row: what it changed is in the audit log under its id.
    Column("expires_at", Float),
    Column("revoked_at", Float),
)

bases = Table(
    "bases",
    metadata,
    Column("fingerprint", Digest, primary_key=True),
    Column("card", Text, nullable=False),
)

base_names = Table(
    "base_names",
    metadata,
    Column("name", Name, primary_key=True),
    Column("fingerprint", ForeignKey("bases.fingerprint"), nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant", ForeignKey("tenants.name"), nullable=False),
    Column("name", Name, nullable=False),
    Column("number", Integer, nullable=False),
    Column("digest", Digest, nullable=False),
    Column("base_fingerprint", ForeignKey("bases.fingerprint"), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("yanked_at", Float),
    Column("yank_reason", Text),
    # Since when its stored bytes are known to be damaged, and which.
    Column("quarantined_at", Float),
    Column("quarantine_reason", Text),
    # A deleted version keeps its row: its number is never given to another content.
    Column("deleted_at", Float),
    UniqueConstraint("tenant", "name", "number"),
    UniqueConstraint("tenant", "name", "digest"),
    Index("versions_by_digest", "digest"),
    Index("versions_by_name", "name"),
)

# What manifests say about blobs, so that listings and garbage collection need not read them.
parts = Table(
    "parts",
    metadata,
    Column("version_digest", Digest, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("kind", String(32), nullable=False),
    Column("blob", Digest, nullable=False),
    Column("size", BigInteger, nullable=False),
    Index("parts_by_blob", "blob"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("tenant", Name, primary_key=True),
    Column("name", Name, primary_key=True),
    Column("alias", Name, primary_key=True),
    Column("number", Integer, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "name", "number"], ["versions.tenant", "versions.name", "versions.number"]
    ),
)

# Every move of an alias, oldest first: what answered last Tuesday can be said next month.
# Without a number, the alias was deleted.
alias_moves = Table(
    "alias_moves",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("tenant", Name, nullable=False),
    Column("name", Name, nullable=False),
    Column("alias", Name, nullable=False),
    Column("number", Integer),
    Column("moved_at", Float, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "name", "number"], ["versions.tenant", "versions.name", "versions.number"]
    ),
    Index("alias_moves_by_alias", "tenant", "name", "alias", "id"),
)

routes = Table(
    "routes",
    metadata,
    Column("tenant", ForeignKey("tenants.name"), primary_key=True),
    Column("task", Name, primary_key=True),
    Column("targets", Text, nullable=False),
    Column("fallback", String(200)),
)

evaluations = Table(
    "evaluations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version_digest", Digest, nullable=False),
    Column("tenant", ForeignKey("tenants.name"), nullable=False),
    Column("dataset_digest", Digest, nullable=False),
    Column("metrics", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("evaluations_by_version", "version_digest", "tenant", "id"),
)

signatures = Table(
    "signatures",
    metadata,
    Column("version_digest", Digest, primary_key=True),
    Column("key_id", String(128), primary_key=True),
    Column("bundle", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

exports = Table(
    "exports",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", ForeignKey("tenants.name"), nullable=False),
    Column("version_digest", Digest, nullable=False),
    Column("target", String(64), nullable=False),
    Column("report", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("exports_by_tenant", "tenant", "created_at"),
)

# Every action, each row's hash over its content and the row before: see `audit verify`.
audit = Table(
    "audit",
    metadata,
    Column("seq", Sequence, primary_key=True),
    Column("at", Float, nullable=False),
    Column("tenant", Name),
    Column("actor", String(200), nullable=False),
    Column("action", String(64), nullable=False),
    Column("object", String(255), nullable=False),
    Column("detail", Text, nullable=False),
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
    Index("audit_by_tenant", "tenant", "seq"),
    Index("audit_by_object", "object", "seq"),
    sqlite_autoincrement=True,
)

# What has changed, in the order in which it became visible; bases have no tenant.
changes = Table(
    "changes",
    metadata,
    Column("seq", Sequence, primary_key=True),
    Column("at", Float, nullable=False),
    Column("tenant", Name),
    Column("kind", String(32), nullable=False),
    Column("name", String(200), nullable=False),
    sqlite_autoincrement=True,
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("fence", Integer, nullable=False),
    Column("expires_at", Float, nullable=False),
)
