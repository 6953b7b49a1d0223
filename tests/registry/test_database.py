"""The database file: durable settings, one migration, and no guessing about newer ones."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from rootstock_registry import Registry, errors
from rootstock_registry.database import _MIGRATIONS, REVISIONS, Database
from rootstock_registry.model import metadata


def test_every_connection_is_durable_and_checks_references(home: Path) -> None:
    database = Database(home)
    for engine in (database.reads, database.writes):
        with engine.connect() as connection:

            def pragma(name: str, connection=connection) -> object:  # type: ignore[no-untyped-def]
                return connection.exec_driver_sql(f"PRAGMA {name}").scalar()

            assert pragma("journal_mode") == "wal"
            assert pragma("synchronous") == 2  # FULL
            assert pragma("foreign_keys") == 1
            assert pragma("busy_timeout") == 15_000
    database.close()
    assert home.stat().st_mode & 0o077 == 0


def test_the_migrations_make_the_tables_of_the_model(home: Path) -> None:
    database = Database(home)
    with database.reads.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    database.close()


def test_every_revision_is_known_in_order() -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert tuple(s.revision for s in scripts.walk_revisions())[::-1] == REVISIONS


def test_opening_again_keeps_what_is_there_and_local_always_exists(home: Path) -> None:
    first = Registry(home)
    assert first.tenants() == ["local"]
    first.create_tenant("acme")
    first.close()
    second = Registry(home)
    assert second.tenants() == ["acme", "local"]
    second.close()


def test_a_newer_database_is_refused_in_words(home: Path) -> None:
    Registry(home).close()
    with sqlite3.connect(home / "registry.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(errors.NewerDatabase, match=r"schema 9999.*upgrade this program"):
        Registry(home)


def test_a_file_that_is_no_database_is_refused_in_words(home: Path) -> None:
    home.mkdir()
    (home / "registry.db").write_bytes(b"not a database" * 100)
    with pytest.raises(errors.RegistryError, match="cannot be opened as a database"):
        Registry(home)


def test_a_migration_killed_half_way_is_done_again_whole(home: Path) -> None:
    code = f"""
import os, pathlib, sqlalchemy
from rootstock_registry.database import Database
made = []
def die(connection, cursor, statement, *rest):
    if "CREATE TABLE" in statement:
        made.append(statement)
        if len(made) == 5:
            os._exit(9)
sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", die)
Database(pathlib.Path({str(home)!r}))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    registry = Registry(home)
    assert registry.tenants() == ["local"]
    registry.close()


def test_several_processes_may_make_one_home_at_once(home: Path) -> None:
    code = f"""
import pathlib
from rootstock_registry import Registry
Registry(pathlib.Path({str(home)!r})).submit_job("local", {{}})
"""
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    registry = Registry(home)
    assert len(registry.jobs("local")) == 4
    registry.close()
