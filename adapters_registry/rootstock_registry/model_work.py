"""The registry's tables of work: files, datasets, features, jobs and what jobs leave behind.

Refuses to know the queries; the same tables are made by `migrations/`.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
)

from rootstock_registry.model import Digest, Name, metadata

files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", ForeignKey("tenants.name"), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("purpose", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("digest", Digest, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("files_by_tenant", "tenant", "created_at", "id"),
    Index("files_by_digest", "digest"),
)

datasets = Table(
    "datasets",
    metadata,
    Column("tenant", Name, ForeignKey("tenants.name"), primary_key=True),
    Column("digest", Digest, primary_key=True),
    Column("rows", Integer, nullable=False),
    Column("columns", Text, nullable=False),
    Column("created_at", Float, nullable=False),
)

# A base's hidden states of a dataset's texts, computed once: [rows, width] in the blob.
features = Table(
    "features",
    metadata,
    Column("base_fingerprint", ForeignKey("bases.fingerprint"), primary_key=True),
    Column("dataset_digest", Digest, primary_key=True),
    Column("pooling", String(32), primary_key=True),
    Column("layer", Integer, primary_key=True, autoincrement=False),
    Column("blob", Digest, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("width", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("features_by_blob", "blob"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("tenant", ForeignKey("tenants.name"), nullable=False),
    Column("spec", Text, nullable=False),
    Column("state", String(16), nullable=False),
    # What its tenant asked for and its worker has not done yet.
    Column("requested", String(16)),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("idempotency_key", String(255)),
    Column("owner", String(200)),
    Column("lease_expires_at", Float),
    Column("fence", Integer, nullable=False),
    Column("progress", Text, nullable=False),
    Column("error", Text),
    Column("version_digest", Digest),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    CheckConstraint(
        "state IN ('queued', 'running', 'paused', 'cancelled', 'succeeded', 'failed')",
        name="jobs_state",
    ),
    CheckConstraint("requested IN ('pause', 'cancel')", name="jobs_requested"),
    Index("jobs_by_state", "state", "priority", "seq"),
    Index("jobs_by_tenant", "tenant", "seq"),
    Index("jobs_by_idempotency_key", "tenant", "idempotency_key", unique=True),
)

# A job's story, numbered from 1 within the job.
events = Table(
    "events",
    metadata,
    Column("job", ForeignKey("jobs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("created_at", Float, nullable=False),
    Column("level", String(16), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", Text),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job", ForeignKey("jobs.id"), nullable=False),
    Column("step", Integer, nullable=False),
    Column("blob", Digest),
    Column("folder", String(255)),
    Column("metrics", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("checkpoints_by_job", "job", "step", unique=True),
    Index("checkpoints_by_blob", "blob"),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("tenant", ForeignKey("tenants.name"), nullable=False),
    Column("spec", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("result", Text),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float),
    Index("comparisons_by_tenant", "tenant", "created_at", "id"),
)
