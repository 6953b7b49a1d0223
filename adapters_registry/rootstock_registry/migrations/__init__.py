"""The schema's revisions, run by Alembic when a database is older than the program.

Refuses to know the program: a revision never changes after its release.
"""
