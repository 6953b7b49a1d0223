"""What a registry says about its versions, what jobs leave behind, and the feed of changes.

Refuses to know what later revisions will add.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import context, op

revision = "0002"
down_revision = "0001"

NAMES = (
    ("api_keys", "tenant"),
    ("base_names", "name"),
    ("versions", "tenant"),
    ("versions", "name"),
    ("aliases", "tenant"),
    ("aliases", "name"),
    ("aliases", "alias"),
    ("alias_moves", "tenant"),
    ("alias_moves", "name"),
    ("alias_moves", "alias"),
    ("routes", "tenant"),
    ("routes", "task"),
    ("jobs", "tenant"),
    ("tenants", "name"),
)
NAME = sa.String(64).with_variant(sa.String(64, collation="C"), "postgresql")
DIGEST = sa.String(71)
SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, column in NAMES:
            op.alter_column(table, column, type_=sa.String(64, collation="C"))
    _jobs()
    _versions()
    _data()
    _what_jobs_leave()
    _evidence()
    _log()


def _required(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _tenant(primary_key: bool = False) -> sa.Column[str]:
    owner = sa.ForeignKey("tenants.name")
    return sa.Column("tenant", NAME, owner, nullable=False, primary_key=primary_key)


def _jobs() -> None:
    op.drop_index("jobs_by_state", "jobs")
    with op.batch_alter_table("jobs") as jobs:
        jobs.add_column(sa.Column("requested", sa.String(16)))
        jobs.add_column(sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
        jobs.add_column(sa.Column("idempotency_key", sa.String(255)))
        jobs.drop_constraint("jobs_state", type_="check")
        states = "'queued', 'running', 'paused', 'cancelled', 'succeeded', 'failed'"
        jobs.create_check_constraint("jobs_state", sa.text(f"state IN ({states})"))
        jobs.create_check_constraint("jobs_requested", sa.text("requested IN ('pause', 'cancel')"))
    op.create_index("jobs_by_state", "jobs", ["state", "priority", "seq"])
    op.create_index("jobs_by_idempotency_key", "jobs", ["tenant", "idempotency_key"], unique=True)


def _versions() -> None:
    op.add_column("versions", sa.Column("yanked_at", sa.Float))
    op.add_column("versions", sa.Column("yank_reason", sa.Text))
    op.add_column("versions", sa.Column("deleted_at", sa.Float))
    with op.batch_alter_table("alias_moves") as moves:
        moves.alter_column("number", existing_type=sa.Integer, nullable=True)
    op.create_index("alias_moves_by_alias", "alias_moves", ["tenant", "name", "alias", "id"])
    parts = op.create_table(
        "parts",
        sa.Column("version_digest", DIGEST, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        _required("kind", sa.String(32)),
        _required("blob", DIGEST),
        _required("size", sa.BigInteger()),
    )
    op.create_index("parts_by_blob", "parts", ["blob"])
    known = op.get_bind().execute(sa.text("SELECT DISTINCT digest FROM versions")).scalars()
    rows = [row for digest in known.all() for row in _parts_of(digest)]
    op.bulk_insert(parts, rows)


def _parts_of(digest: str) -> list[dict[str, object]]:
    """From the manifest, which at revision 0001 is always a file of the home."""
    blobs: Path = context.config.attributes["blobs"]
    algorithm, _, hexadecimal = digest.partition(":")
    try:
        manifest = json.loads((blobs / algorithm / hexadecimal[:2] / hexadecimal[2:]).read_bytes())
        return [
            {"version_digest": digest, "position": position}
            | {key: part[key] for key in ("kind", "blob", "size")}
            for position, part in enumerate(manifest["parts"])
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []  # damaged: it cannot be served; publishing it again repairs manifest and parts


def _data() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), primary_key=True),
        _tenant(),
        _required("filename", sa.String(255)),
        _required("purpose", sa.String(64)),
        _required("bytes", sa.BigInteger()),
        _required("digest", DIGEST),
        _required("created_at", sa.Float()),
    )
    op.create_index("files_by_tenant", "files", ["tenant", "created_at", "id"])
    op.create_index("files_by_digest", "files", ["digest"])
    op.create_table(
        "datasets",
        _tenant(primary_key=True),
        sa.Column("digest", DIGEST, primary_key=True),
        _required("rows", sa.Integer()),
        _required("columns", sa.Text()),
        _required("created_at", sa.Float()),
    )
    base = sa.ForeignKey("bases.fingerprint")
    op.create_table(
        "features",
        sa.Column("base_fingerprint", DIGEST, base, primary_key=True),
        sa.Column("dataset_digest", DIGEST, primary_key=True),
        sa.Column("pooling", sa.String(32), primary_key=True),
        sa.Column("layer", sa.Integer, primary_key=True, autoincrement=False),
        _required("blob", DIGEST),
        _required("rows", sa.Integer()),
        _required("width", sa.Integer()),
        _required("created_at", sa.Float()),
    )
    op.create_index("features_by_blob", "features", ["blob"])


def _what_jobs_leave() -> None:
    op.create_table(
        "events",
        sa.Column("job", sa.String(32), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        _required("created_at", sa.Float()),
        _required("level", sa.String(16)),
        _required("message", sa.Text()),
        sa.Column("data", sa.Text),
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("job", sa.String(32), sa.ForeignKey("jobs.id"), nullable=False),
        _required("step", sa.Integer()),
        sa.Column("blob", DIGEST),
        sa.Column("folder", sa.String(255)),
        _required("metrics", sa.Text()),
        _required("created_at", sa.Float()),
    )
    op.create_index("checkpoints_by_job", "checkpoints", ["job", "step"], unique=True)
    op.create_index("checkpoints_by_blob", "checkpoints", ["blob"])
    op.create_table(
        "comparisons",
        sa.Column("id", sa.String(64), primary_key=True),
        _tenant(),
        _required("spec", sa.Text()),
        _required("state", sa.String(16)),
        sa.Column("result", sa.Text),
        _required("created_at", sa.Float()),
        sa.Column("finished_at", sa.Float),
    )
    op.create_index("comparisons_by_tenant", "comparisons", ["tenant", "created_at", "id"])


def _evidence() -> None:
    op.create_table(
        "evaluations",
        sa.Column("id", sa.Integer, primary_key=True),
        _required("version_digest", DIGEST),
        _tenant(),
        _required("dataset_digest", DIGEST),
        _required("metrics", sa.Text()),
        _required("created_at", sa.Float()),
    )
    op.create_index("evaluations_by_version", "evaluations", ["version_digest", "tenant", "id"])
    op.create_table(
        "signatures",
        sa.Column("version_digest", DIGEST, primary_key=True),
        sa.Column("key_id", sa.String(128), primary_key=True),
        _required("bundle", sa.Text()),
        _required("created_at", sa.Float()),
    )
    op.create_table(
        "exports",
        sa.Column("id", sa.String(64), primary_key=True),
        _tenant(),
        _required("version_digest", DIGEST),
        _required("target", sa.String(64)),
        _required("report", sa.Text()),
        _required("created_at", sa.Float()),
    )
    op.create_index("exports_by_tenant", "exports", ["tenant", "created_at"])


def _log() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", SEQUENCE, primary_key=True),
        _required("at", sa.Float()),
        sa.Column("tenant", NAME),
        _required("actor", sa.String(200)),
        _required("action", sa.String(64)),
        _required("object", sa.String(255)),
        _required("detail", sa.Text()),
        _required("previous", sa.String(64)),
        sa.Column("hash", sa.String(64), nullable=False, unique=True),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_by_tenant", "audit", ["tenant", "seq"])
    op.create_table(
        "changes",
        sa.Column("seq", SEQUENCE, primary_key=True),
        _required("at", sa.Float()),
        sa.Column("tenant", NAME),
        _required("kind", sa.String(32)),
        _required("name", sa.String(200)),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(128), primary_key=True),
        _required("owner", sa.String(200)),
        _required("fence", sa.Integer()),
        _required("expires_at", sa.Float()),
    )
