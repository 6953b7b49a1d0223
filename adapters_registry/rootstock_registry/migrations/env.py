"""Alembic's entry: runs the revisions on the connection, and in the transaction, it is handed.

Refuses to open a database by itself.
"""

from __future__ import annotations

from alembic import context

# SQLite's DDL is transactional: killed half-way, a migration leaves the schema as it was.
context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()
