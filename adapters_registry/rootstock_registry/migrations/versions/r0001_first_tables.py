"""The first tables, and the tenant `local`.

Refuses to know what later revisions will add.
"""

from __future__ import annotations

import time

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    tenants = op.create_table(
        "tenants",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.bulk_insert(tenants, [{"name": "local", "created_at": time.time()}])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.String(64), sa.ForeignKey("tenants.name"), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("secret_sha256", sa.String(64), nullable=False, unique=True),
        sa.Column("created_at", sa.Float, nullable=False),
    )
    op.create_table(
        "bases",
        sa.Column("fingerprint", sa.String(71), primary_key=True),
        sa.Column("card", sa.Text, nullable=False),
    )
    op.create_table(
        "base_names",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("fingerprint", sa.String(71), sa.ForeignKey("bases.fingerprint"), nullable=False),
    )
    _versions_and_aliases()
    op.create_table(
        "routes",
        sa.Column("tenant", sa.String(64), sa.ForeignKey("tenants.name"), primary_key=True),
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("targets", sa.Text, nullable=False),
        sa.Column("fallback", sa.String(200)),
    )
    _jobs()


def _versions_and_aliases() -> None:
    op.create_table(
        "versions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("tenant", sa.String(64), sa.ForeignKey("tenants.name"), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column(
            "base_fingerprint", sa.String(71), sa.ForeignKey("bases.fingerprint"), nullable=False
        ),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.UniqueConstraint("tenant", "name", "number"),
        sa.UniqueConstraint("tenant", "name", "digest"),
    )
    op.create_index("versions_by_digest", "versions", ["digest"])
    op.create_index("versions_by_name", "versions", ["name"])
    of_version = (
        ["tenant", "name", "number"],
        ["versions.tenant", "versions.name", "versions.number"],
    )
    op.create_table(
        "aliases",
        sa.Column("tenant", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("alias", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(*of_version),
    )
    op.create_table(
        "alias_moves",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("tenant", sa.String(64), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("moved_at", sa.Float, nullable=False),
        sa.ForeignKeyConstraint(*of_version),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("tenant", sa.String(64), sa.ForeignKey("tenants.name"), nullable=False),
        sa.Column("spec", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(200)),
        sa.Column("lease_expires_at", sa.Float),
        sa.Column("fence", sa.Integer, nullable=False),
        sa.Column("progress", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("version_digest", sa.String(71)),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("finished_at", sa.Float),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed')", name="jobs_state"
        ),
    )
    op.create_index("jobs_by_state", "jobs", ["state", "seq"])
    op.create_index("jobs_by_tenant", "jobs", ["tenant", "seq"])
