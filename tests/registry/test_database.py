"""The database: durable settings, migrations from every revision, no guessing about newer ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from rootstock_registry import BlobStore, Registry, errors, model_work
from rootstock_registry.database import _MIGRATIONS, REVISIONS, Database
from rootstock_registry.model import metadata
from rootstock_registry.tenants import by_secret, hashed
from sqlalchemy import Connection, NullPool, create_engine, text


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


def test_the_migrations_make_the_tables_of_the_model(home: Path, database_url: str | None) -> None:
    database = Database(home, database_url)
    with database.reads.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert model_work.jobs.metadata is metadata
        assert compare_metadata(context, metadata) == []
    database.close()


def test_every_revision_is_known_in_order() -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    assert tuple(s.revision for s in scripts.walk_revisions())[::-1] == REVISIONS


def alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def at_revision_0001(home: Path, url: str | None) -> Connection:
    """A database as the first program made it, in a transaction that may go on."""
    home.mkdir()
    at = f"sqlite:///{home / 'registry.db'}" if url is None else url
    engine = create_engine(at.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    connection = engine.connect()
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "0001")
    return connection


OLD_ROWS = """
INSERT INTO tenants VALUES ('acme', 1.0);
INSERT INTO api_keys VALUES ('key_a', 'acme', 'caller', '{hash}', 1.25);
INSERT INTO bases VALUES ('sha256:base', '{}');
INSERT INTO versions VALUES
 (7, 'acme', 'triage', 1, '{first}', 'sha256:base', 1.5),
 (8, 'acme', 'triage', 2, 'sha256:lost', 'sha256:base', 2.5);
INSERT INTO aliases VALUES ('acme', 'triage', 'prod', 2);
INSERT INTO alias_moves VALUES (1, 'acme', 'triage', 'prod', 1, 3.0),
 (2, 'acme', 'triage', 'prod', 2, 4.0);
INSERT INTO jobs (seq, id, tenant, spec, state, fence, progress, created_at) VALUES
 (3, 'job_a', 'acme', '{}', 'queued', 0, '{}', 5.0),
 (4, 'job_b', 'acme', '{"n": 1}', 'failed', 2, '{"done": 1}', 6.0)
"""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_database_of_the_first_revision_is_upgraded_with_its_rows(
    home: Path, database: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("empty_database") if database == "postgresql" else None
    connection = at_revision_0001(home, url)
    parts = [{"kind": "head", "blob": "sha256:b", "size": 9, "config": {}, "tensors": {}}]
    first = BlobStore(home / "blobs").put(json.dumps({"parts": parts}).encode())
    known = {"{first}": first, "{hash}": hashed("rsk_old")}
    for statement in re.sub("{first}|{hash}", lambda found: known[found[0]], OLD_ROWS).split(";"):
        connection.exec_driver_sql(statement)
    connection.commit()
    connection.close()
    opened = Database(home, url)
    with opened.reads.connect() as reading:

        def rows(columns: str, table: str) -> list[tuple[object, ...]]:
            query = text(f"SELECT {columns} FROM {table} ORDER BY 1, 2")
            return [tuple(row) for row in reading.execute(query)]

        assert rows("version_digest, position, kind, blob, size", "parts") == [
            (first, 0, "head", "sha256:b", 9)
        ]
        assert rows("id, number, digest, created_at, yanked_at, deleted_at", "versions") == [
            (7, 1, first, 1.5, None, None),
            (8, 2, "sha256:lost", 2.5, None, None),
        ]
        assert rows("alias, number", "aliases") == [("prod", 2)]
        assert rows("id, number, moved_at", "alias_moves") == [(1, 1, 3.0), (2, 2, 4.0)]
        assert rows("seq, id, state, spec, progress, priority, requested", "jobs") == [
            (3, "job_a", "queued", "{}", "{}", 0, None),
            (4, "job_b", "failed", '{"n": 1}', '{"done": 1}', 0, None),
        ]
        old = by_secret(reading, "rsk_old")
        assert old is not None and (old.id, old.role, old.state) == ("key_a", "caller", "active")
    with opened.writes.begin() as writing:  # states that the first revision did not know
        writing.execute(text("UPDATE jobs SET state = 'paused', requested = 'cancel'"))
    opened.close()


def test_opening_again_keeps_what_is_there_and_local_always_exists(
    opened: Callable[[], Registry],
) -> None:
    first = opened()
    assert first.tenants() == ["local"]
    first.create_tenant("acme")
    first.close()
    assert opened().tenants() == ["acme", "local"]


def test_a_newer_database_is_refused_in_words(home: Path, database_url: str | None) -> None:
    database = Database(home, database_url)
    with database.writes.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    database.close()
    with pytest.raises(errors.NewerDatabase, match=r"schema 9999.*upgrade this program"):
        Registry(home, database_url)


def test_a_file_that_is_no_database_is_refused_in_words(home: Path) -> None:
    home.mkdir()
    (home / "registry.db").write_bytes(b"not a database" * 100)
    with pytest.raises(errors.RegistryError, match="cannot be opened as a database"):
        Registry(home)


@pytest.fixture(params=["sqlite", "postgresql"])
def unopened(request: pytest.FixtureRequest) -> str | None:
    """Like `database_url`, but nothing has made tables there yet."""
    return None if request.param == "sqlite" else request.getfixturevalue("empty_database")


@pytest.mark.parametrize("after", [5, 20])
def test_a_migration_killed_half_way_is_done_again_whole(
    home: Path, unopened: str | None, after: int
) -> None:
    code = f"""
import os, pathlib, sqlalchemy
from rootstock_registry.database import Database
made = []
def die(connection, cursor, statement, *rest):
    if "CREATE TABLE" in statement:
        made.append(statement)
        if len(made) == {after}:
            os._exit(9)
sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", die)
Database(pathlib.Path({str(home)!r}), {unopened!r})
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    registry = Registry(home, unopened)
    assert registry.tenants() == ["local"]
    registry.close()


def test_several_processes_may_make_one_registry_at_once(home: Path, unopened: str | None) -> None:
    code = f"""
import pathlib
from rootstock_registry import Registry
Registry(pathlib.Path({str(home)!r}), {unopened!r}).submit_job("local", {{}})
"""
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    processes = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    registry = Registry(home, unopened)
    assert len(registry.jobs("local")) == 4
    registry.close()
