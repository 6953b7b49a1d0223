"""A database that does not answer is said in words, never repeats a password, and may come back."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import (
    ApiKey,
    Lineage,
    NewPart,
    Registry,
    errors,
    last_said,
    postgresql,
    sqlite,
    tenants,
)
from sqlalchemy import Connection

HEARD_S = 60.0  # at most: a wait ends when something is heard


def kick_everybody(url: str) -> None:
    """End every other connection to the database, as a server that restarts does."""
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'rootstock'"
        )


Head = Callable[[float], NewPart]


@contextlib.contextmanager
def closed(url: str) -> Iterator[None]:
    """Meanwhile, nobody gets a connection to the database of `url`, and those there are cut."""
    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        try:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s "
                "AND application_name = 'rootstock'",
                [name],
            )
            yield
        finally:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.fixture
def server(cleared_database: str) -> str:
    return cleared_database


def test_a_server_that_is_not_there_is_said_without_its_password(home: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and nobody else's meanwhile, but it does not listen
        port = deaf.getsockname()[1]
        with pytest.raises(errors.Unavailable, match="does not answer") as caught:
            Registry(home, f"postgresql://me:hush@127.0.0.1:{port}/registry")
    assert f"me:***@127.0.0.1:{port}/registry" in caught.value.message
    assert "hush" not in caught.value.message and "\n" not in caught.value.message


def test_a_database_that_does_not_exist_is_said(home: Path, postgresql_server: str) -> None:
    with pytest.raises(errors.Unavailable, match='database "nowhere" does not exist'):
        Registry(home, f"{postgresql_server}/nowhere")


@pytest.mark.parametrize("url", ["registry.db", "mysql://me:hush@host/x", "sqlite:///x.db"])
def test_another_kind_of_url_is_refused_with_the_form_of_a_right_one(home: Path, url: str) -> None:
    with pytest.raises(errors.InvalidName, match="write postgresql://USER:PASSWORD") as caught:
        Registry(home, url)
    assert "hush" not in caught.value.message


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_usual_name_of_postgresql_is_understood(scheme: str) -> None:
    url = postgresql.url_of(f"{scheme}://u:p@h:5/d?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.host, url.port, url.database, dict(url.query)) == (
        "h",
        5,
        "d",
        {"sslmode": "require"},
    )


def test_connections_that_were_cut_are_made_anew_unnoticed(home: Path, server: str) -> None:
    registry = Registry(home, server)
    assert registry.tenants() == ["local"]
    kick_everybody(server)
    registry.create_tenant("acme")
    assert registry.tenants() == ["acme", "local"]
    registry.close()


def test_a_connection_lost_inside_a_transaction_changes_nothing(home: Path, server: str) -> None:
    registry = Registry(home, server)
    with (
        pytest.raises(errors.Unavailable, match=r"does not answer.*asked again safely"),
        registry._database.writes.begin() as connection,
    ):
        connection.exec_driver_sql("INSERT INTO tenants VALUES ('ghost', 0)")
        kick_everybody(server)
        connection.exec_driver_sql("INSERT INTO tenants VALUES ('ghost2', 0)")
    assert registry.tenants() == ["local"]
    registry.close()


def test_a_follower_says_that_it_was_cut_off_and_misses_nothing(home: Path, server: str) -> None:
    registry = Registry(home, server)
    with registry.follow() as follower:
        assert follower.wait(0) == []
        kick_everybody(server)
        with pytest.raises(errors.Unavailable, match="does not answer"):
            follower.wait(HEARD_S)
        registry.create_tenant("acme")
        assert [change.name for change in follower.wait(HEARD_S)] == ["acme"]
    registry.close()


def test_while_the_database_is_away_what_it_said_last_still_counts_for_a_while(
    home: Path,
    server: str,
    card: BaseCard,
    head: Head,
    lineage: Lineage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry = Registry(home, server)
    version = registry.publish("local", "triage", card, [head(1.0)], lineage=lineage)
    _, secret = registry.create_key("local", "caller")
    registry.set_route("local", "mail", {"triage:1": 1})
    asked = (
        lambda: registry.resolve("local", "triage:1").digest,
        lambda: registry.key_owner(secret),
        lambda: registry.route("local", "mail"),
    )
    before = [ask() for ask in asked]
    assert before[0] == version.digest
    with closed(server):
        assert [ask() for ask in asked] == before
        for new in (
            lambda: registry.resolve("local", "triage"),
            lambda: registry.key_owner("rsk_another"),
            lambda: registry.promote("local", "triage:1", "prod"),
        ):
            with pytest.raises(errors.Unavailable, match="does not answer"):
                new()
        monkeypatch.setattr(last_said, "GOOD_FOR_S", 0.0)
        for ask in asked:
            with pytest.raises(errors.Unavailable, match="does not answer"):
                ask()
    monkeypatch.undo()
    registry.delete_version("local", "triage:1", force=True)
    with pytest.raises(errors.NotFound):
        registry.resolve("local", "triage:1")
    with closed(server), pytest.raises(errors.Unavailable):  # deleted is not what it said last
        registry.resolve("local", "triage:1")
    registry.close()


def test_while_the_database_is_away_a_key_that_has_ended_stays_ended(
    home: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, right = Registry(home, server), time.time
    until = datetime.now(UTC) + timedelta(hours=1)
    key_id, revoked = registry.create_key("local", "caller")
    _, expiring = registry.create_key("local", "caller", expires_at=until)
    assert registry.key_owner(revoked) and registry.key_owner(expiring)
    registry.revoke_key("local", key_id)
    assert registry.key_owner(revoked) is None
    with closed(server):
        assert registry.key_owner(expiring)
        monkeypatch.setattr(time, "time", lambda: right() + 3601)
        assert registry.key_owner(expiring) is registry.key_owner(revoked) is None
    registry.close()


def test_who_read_a_key_before_it_was_revoked_and_says_so_late_brings_nothing_back(
    home: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, read = Registry(home, server), tenants.by_secret
    key_id, secret = registry.create_key("local", "caller")
    late = []

    def revoked_meanwhile(connection: Connection, secret: str) -> ApiKey | None:
        found = read(connection, secret)
        if not late:
            late.append(found)
            registry.revoke_key("local", key_id)
            assert registry.key_owner(secret) is None
        return found

    monkeypatch.setattr(tenants, "by_secret", revoked_meanwhile)
    assert registry.key_owner(secret) is None
    assert late[0].state == "active"
    with closed(server):
        assert registry.key_owner(secret) is None
    registry.close()


def test_a_writer_that_waits_too_long_is_told_who_is_in_the_way(
    opened: Callable[[], Registry],
    database_url: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_MS", 100)
    monkeypatch.setitem(postgresql._SETTINGS, "lock_timeout", 100)
    first, second = opened(), opened()
    with (
        first._database.writes.begin(),
        pytest.raises(errors.Unavailable, match="is busy: another"),
    ):
        second.create_tenant("acme")
    second.create_tenant("acme")
    assert first.tenants() == ["acme", "local"]


def test_a_database_without_room_is_full_storage_and_nothing_is_stored(
    registry: Registry,
    card: BaseCard,
    head: Head,
    lineage: Lineage,
    database_url: str | None,
) -> None:
    # SQLite's own limit of a file; in PostgreSQL a trigger says what a full disk makes it say.
    full, free = ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000")
    if database_url is not None:
        full = """
            CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
            CREATE TRIGGER full_disk BEFORE INSERT ON versions EXECUTE FUNCTION full_disk()"""
        free = "DROP FUNCTION full_disk CASCADE"
    reads = registry._database.reads

    # Its row is larger than what the file's last page has room for.
    linears = {f"encoder.layer.{number}.output.dense": (8, 8) for number in range(2000)}
    wordy = card.model_copy(update={"linears": linears})

    def publish() -> int:
        return registry.publish("local", "triage", wordy, [head(1.0)], lineage=lineage).number

    with reads.connect() as connection:
        connection.exec_driver_sql(full)
    with pytest.raises(errors.StorageFull, match=r"no room is left .*nothing was changed"):
        publish()
    assert registry.versions("local", "triage") == []
    with reads.connect() as connection:
        connection.exec_driver_sql(free)
    assert publish() == 1


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_text_that_no_database_keeps_is_refused_or_unknown(registry: Registry, text: str) -> None:
    for ask in (
        lambda: registry.adapter("local", text),
        lambda: registry.base(text),
        lambda: registry.route("local", text),
        lambda: registry.rollback("local", text, "prod"),
    ):
        with pytest.raises((errors.NotFound, errors.InvalidName)):
            ask()


def test_a_reader_waits_for_no_writer(opened: Callable[[], Registry]) -> None:
    first, second = opened(), opened()
    with first._database.writes.begin() as connection:
        connection.exec_driver_sql("INSERT INTO tenants VALUES ('acme', 0)")
        assert second.tenants() == ["local"]
    assert second.tenants() == ["acme", "local"]


def test_a_damaged_file_is_said(home: Path) -> None:
    registry = Registry(home)
    for number in range(200):
        registry.create_tenant(f"t{number}")
    registry.close()
    file = home / "registry.db"
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(4096)
        stream.write(b"\xff" * (size - 4096))
    with pytest.raises(errors.RegistryError, match=r"is damaged|cannot be opened"):
        Registry(home).tenants()


def test_a_file_that_is_read_only_is_said(home: Path) -> None:
    registry = Registry(home)
    with registry._database.reads.connect() as connection:
        connection.exec_driver_sql("PRAGMA query_only = ON")
        connection.commit()
    with pytest.raises(errors.Unavailable, match="read-only"):
        registry.create_tenant("acme")
    registry.close()
