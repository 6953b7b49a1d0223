"""A reference asked before is not looked up again, and never means what it meant once."""

from __future__ import annotations

import pytest
from rootstock_registry import Registry, index
from rootstock_registry.errors import NotFound


@pytest.fixture
def lookups(monkeypatch) -> list[str]:
    """The references that were read from rows."""
    seen: list[str] = []
    right = index.resolve

    def counted(connection, tenant, text):
        seen.append(text)
        return right(connection, tenant, text)

    monkeypatch.setattr(index, "resolve", counted)
    return seen


@pytest.fixture
def server(opened, card, head, lineage) -> Registry:
    """Opened by a process that serves; `triage` has two versions and `prod` is the first."""
    registry = opened()
    for value in (1.0, 2.0):
        registry.publish("local", "triage", card, [head(value)], lineage=lineage)
    registry.promote("local", "triage:1", "prod")
    return registry


def test_between_two_changes_a_name_is_looked_up_once(server, database_url, lookups):
    first = server.resolve("local", "triage@prod")
    assert server.resolve("local", "triage@prod") == first
    assert len(lookups) == (1 if database_url is None else 2)


def test_a_move_by_another_process_is_seen_at_once(server, opened):
    command = opened()
    for _ in range(20):
        for number in (2, 1):
            command.promote("local", f"triage:{number}", "prod")
            assert server.resolve("local", "triage@prod").number == number


def test_its_own_changes_are_seen_and_tenants_are_kept_apart(server):
    server.create_tenant("other")
    assert server.resolve("local", "triage").number == 1
    with pytest.raises(NotFound):
        server.resolve("other", "triage")
    server.promote("local", "triage:2", "prod")
    assert server.resolve("local", "triage").number == 2
