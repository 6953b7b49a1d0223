"""One file per revision, oldest first; `database.REVISIONS` lists them.

Refuses to know today's tables: `model.py` may move on, these files may not.
"""
