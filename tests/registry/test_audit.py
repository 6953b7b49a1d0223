"""Every change leaves a row; a row that is touched afterwards is named."""

from __future__ import annotations

import getpass
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry, audit, errors
from rootstock_registry.audit import GENESIS, acting_as
from sqlalchemy import text

DATASET = "sha256:" + "d" * 64


@pytest.fixture
def busy(
    registry: Registry, card: BaseCard, head: Callable[[float], NewPart], lineage: Lineage
) -> Registry:
    """A tenant, a key, two versions, one promotion, a route and a job, all by `key_7`."""
    with acting_as("key_7"):
        registry.create_tenant("acme")
        registry.create_key("acme", "caller")
        for value in (1.0, 2.0):
            registry.publish("acme", "triage", card, [head(value)], lineage=lineage)
        registry.promote("acme", "triage:2", "prod")
        registry.set_route("acme", "mail", {"triage": 1})
        registry.submit_job("acme", {"method": "head"})
        registry.evidence.evaluate("acme", "triage:2", {"accuracy": 1.0}, DATASET)
    return registry


def actions(registry: Registry) -> list[tuple[str, str]]:
    return [(row.action, row.object) for row in reversed(registry.evidence.audit())]


def test_every_change_is_a_row_with_its_actor(busy: Registry) -> None:
    (tenant, key, *rest) = actions(busy)
    assert tenant == ("create tenant", "acme")
    assert key[0] == "create key" and key[1].startswith("key_")
    job = busy.jobs("acme")[0].id
    assert rest == [
        ("publish", "triage:1"),
        ("publish", "triage:2"),
        ("move alias", "triage@prod"),
        ("set route", "mail"),
        ("submit job", job),
        ("evaluate", "triage:2"),
    ]
    rows = busy.evidence.audit()
    assert {row.actor for row in rows} == {"key_7"}
    assert {row.tenant for row in rows} == {"acme"}
    moved = next(row for row in rows if row.action == "move alias")
    assert moved.detail["to"] == 2


def test_the_rest_of_a_versions_life_is_in_the_log_too(
    busy: Registry, card: BaseCard, head: Callable[[float], NewPart], lineage: Lineage
) -> None:
    before = len(actions(busy))
    busy.promote("acme", "triage:1", "prod")
    busy.rollback("acme", "triage", "prod")
    busy.delete_alias("acme", "triage", "prod", force=True)
    busy.yank("acme", "triage:2", "leaks")
    busy.unyank("acme", "triage:2")
    busy.delete_version("acme", "triage:1", force=True)
    busy.publish("acme", "triage", card, [head(1.0)], lineage=lineage)
    busy.delete_adapter("acme", "triage", force=True)
    busy.gc(grace_s=0)
    rows = list(reversed(busy.evidence.audit()))[before:]
    assert [(row.action, row.object) for row in rows] == [
        ("move alias", "triage@prod"),
        ("move alias", "triage@prod"),
        ("delete alias", "triage@prod"),
        ("yank", "triage:2"),
        ("unyank", "triage:2"),
        ("delete version", "triage:1"),
        ("publish", "triage:1"),
        ("delete version", "triage:1"),
        ("delete version", "triage:2"),
        ("collect garbage", "blobs"),
    ]
    assert rows[1].detail == {"from": 1, "to": 2, "rollback": True}
    assert rows[3].detail == {"reason": "leaks"}
    assert len(rows[-1].detail["blobs"]) >= 2
    assert busy.evidence.verify_audit().rows == before + 10


def test_on_the_command_line_the_actor_is_the_user(registry: Registry) -> None:
    registry.create_tenant("acme")
    assert registry.evidence.audit()[0].actor == f"user:{getpass.getuser()}"


def test_no_secret_is_in_the_log(registry: Registry) -> None:
    key_id, secret = registry.create_key("local", "admin")
    (row,) = registry.evidence.audit()
    assert (row.object, row.detail) == (key_id, {"role": "admin"})
    assert secret not in str(row)


def test_what_changes_nothing_leaves_no_row(
    busy: Registry, card: BaseCard, head: Callable[[float], NewPart], lineage: Lineage
) -> None:
    before = actions(busy)
    busy.publish("acme", "triage", card, [head(2.0)], lineage=lineage, promote="prod")
    busy.promote("acme", "triage:2", "prod")
    with pytest.raises(errors.NotFound):
        busy.promote("acme", "triage:9", "prod")
    with pytest.raises(errors.Conflict):
        busy.create_tenant("acme")
    assert actions(busy) == before


def test_rows_are_found_by_tenant_and_by_object_and_come_in_pages(busy: Registry) -> None:
    busy.create_tenant("globex")
    evidence = busy.evidence
    assert [row.object for row in evidence.audit(tenant="globex")] == ["globex"]
    of_adapter = evidence.audit(object="triage")
    assert [row.object for row in of_adapter] == [
        "triage:2", "triage@prod", "triage:2", "triage:1",
    ]  # fmt: skip
    assert [row.action for row in evidence.audit(object="triage:2")] == ["evaluate", "publish"]
    assert evidence.audit(object="tri%") == evidence.audit(object="tria") == []
    whole = evidence.audit()
    pages = [evidence.audit(limit=4), evidence.audit(limit=4, after=whole[3].seq)]
    assert [*pages[0], *pages[1]] == whole[:8]


def test_an_untouched_chain_verifies_and_its_end_is_its_last_hash(busy: Registry) -> None:
    head = busy.evidence.verify_audit()
    assert (head.rows, head.hash) == (8, busy.evidence.audit(limit=1)[0].hash)


def test_an_empty_chain_verifies(registry: Registry) -> None:
    assert registry.evidence.verify_audit().rows == 0
    assert registry.evidence.verify_audit().hash == GENESIS


TAMPERED = [
    ("UPDATE audit SET actor = 'nobody' WHERE seq = 4", r"row 4 \(publish triage:2\) was changed"),
    ("UPDATE audit SET at = at + 0.001 WHERE seq = 1", "row 1 .* was changed"),
    ("UPDATE audit SET tenant = NULL WHERE seq = 6", "row 6 .* was changed"),
    ("""UPDATE audit SET detail = '{}' WHERE seq = 5""", "row 5 .* was changed"),
    ("UPDATE audit SET detail = 'x' WHERE seq = 5", "row 5 .* was changed"),
    ("UPDATE audit SET detail = '{\"from\": NaN}' WHERE seq = 5", "row 5 .* was changed"),
    ("UPDATE audit SET detail = '[1]' WHERE seq = 5", "row 5 .* was changed"),
    (f"UPDATE audit SET detail = '{'[' * 100_000}' WHERE seq = 5", "row 5 .* was changed"),
    ("UPDATE audit SET previous = hash WHERE seq = 3", "row 3 .* was changed"),
    ("DELETE FROM audit WHERE seq = 5", r"row 5 is missing: row 6 \(set route mail\)"),
    ("DELETE FROM audit WHERE seq = 1", "row 1 is missing"),
    ("DELETE FROM audit WHERE seq = 4; UPDATE audit SET seq = seq - 1 WHERE seq > 4",
     "row 4 .* was changed"),
    ("UPDATE audit SET seq = -1 WHERE seq = 2; UPDATE audit SET seq = 2 WHERE seq = 3;"
     "UPDATE audit SET seq = 3 WHERE seq = -1", "row 2 .* was changed"),
]  # fmt: skip


def test_a_row_that_was_edited_removed_or_moved_is_named(busy: Registry) -> None:
    for statements, message in TAMPERED:
        with busy._database.writes.connect() as connection, connection.begin() as undone:
            for statement in statements.split(";"):
                connection.exec_driver_sql(statement)
            with pytest.raises(errors.BrokenAudit, match=message):
                audit.verify(connection)
            undone.rollback()
    assert busy.evidence.verify_audit().rows == 8


def test_values_that_only_sqlite_takes_are_named_and_listed(home: Path) -> None:
    registry = Registry(home)
    for name in ("a", "b", "c"):
        registry.create_tenant(name)
    for change in ("at = 9e999", "at = 'soon'", "actor = x'ff00'", "detail = x'ff00'"):
        with registry._database.writes.connect() as connection, connection.begin() as undone:
            connection.exec_driver_sql(f"UPDATE audit SET {change} WHERE seq = 2")
            with pytest.raises(errors.BrokenAudit, match=r"row 2 .* was changed"):
                audit.verify(connection)
            assert len(audit.rows(connection)) == 3
            undone.rollback()
    registry.close()


def test_a_cut_off_end_is_seen_only_with_a_kept_hash(busy: Registry) -> None:
    kept = busy.evidence.verify_audit().hash
    with busy._database.writes.begin() as connection:
        connection.execute(text("DELETE FROM audit WHERE seq > 6"))
    assert busy.evidence.verify_audit().rows == 6
    with pytest.raises(errors.BrokenAudit, match="is not in it: rows were cut off"):
        busy.evidence.verify_audit(kept)


def test_a_kept_hash_stays_in_the_chain_as_it_grows(busy: Registry) -> None:
    kept = busy.evidence.verify_audit().hash
    busy.create_tenant("globex")
    assert busy.evidence.verify_audit(kept).rows == 9


def test_writers_at_once_make_one_chain(registry: Registry) -> None:
    def make(worker: int) -> None:
        with acting_as(f"key_{worker}"):
            for number in range(5):
                registry.create_tenant(f"t{worker}-{number}")

    workers = [threading.Thread(target=make, args=(each,)) for each in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert registry.evidence.verify_audit().rows == 30
    by = {row.object: row.actor for row in registry.evidence.audit(limit=100)}
    assert by["t3-4"] == "key_3"
