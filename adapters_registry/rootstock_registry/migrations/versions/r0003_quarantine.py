"""A version says since when its stored bytes are known to be damaged, and which of them.

Refuses to know what later revisions will add.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("versions", sa.Column("quarantined_at", sa.Float))
    op.add_column("versions", sa.Column("quarantine_reason", sa.Text))
    op.create_index("audit_by_object", "audit", ["object", "seq"])
