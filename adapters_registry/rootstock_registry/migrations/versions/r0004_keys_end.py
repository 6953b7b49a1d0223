"""A key ends: when its time is over, or when it was revoked. Those that are there go on.

Refuses to know what later revisions will add.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("expires_at", sa.Float))
    op.add_column("api_keys", sa.Column("revoked_at", sa.Float))
