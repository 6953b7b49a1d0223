"""A tenant's things are its own; a key is its owner's; a route leads to what exists."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import KeyOwner, Lineage, NewPart, Registry, Route, errors


@pytest.fixture
def two(
    registry: Registry, card: BaseCard, head: Callable[[float], NewPart], lineage: Lineage
) -> Registry:
    """Tenants `acme` and `globex`; `acme` has `triage:1` (prod) and `triage:2` (canary)."""
    registry.create_tenant("acme")
    registry.create_tenant("globex")
    for value, alias in ((1.0, "prod"), (2.0, "canary")):
        registry.publish("acme", "triage", card, [head(value)], lineage=lineage, promote=alias)
    return registry


@pytest.mark.parametrize("form", ["{}", "{}:1", "{}@prod", "acme/{}", "acme/{}:1", "acme/{}@prod"])
def test_a_foreign_adapter_reads_exactly_like_an_unknown_one(two: Registry, form: str) -> None:
    def message(name: str) -> str:
        with pytest.raises(errors.NotFound) as caught:
            two.resolve("globex", form.format(name))
        return caught.value.message.replace(name, "NAME")

    assert message("triage") == message("nobody")


def test_lists_promotions_and_jobs_stay_inside_their_tenant(two: Registry) -> None:
    two.submit_job("acme", {"method": "head"})
    assert two.adapters("globex") == two.versions("globex", "triage") == two.jobs("globex") == []
    with pytest.raises(errors.NotFound):
        two.promote("globex", "acme/triage:2", "prod")
    assert two.resolve("acme", "triage").number == 1


def test_two_tenants_may_use_one_name(
    two: Registry, card: BaseCard, head: Callable[[float], NewPart], lineage: Lineage
) -> None:
    theirs = two.publish("globex", "triage", card, [head(9.0)], lineage=lineage, promote="prod")
    assert (theirs.number, theirs.aliases) == (1, ("prod",))
    assert two.resolve("globex", "triage").digest != two.resolve("acme", "triage").digest


def test_tenant_names_are_checked_and_unique(registry: Registry) -> None:
    registry.create_tenant("acme")
    with pytest.raises(errors.Conflict, match="'acme' already exists"):
        registry.create_tenant("acme")
    for name in ("", "Acme", "a/b", "-a", "a" * 65, "a b", "a\n"):
        with pytest.raises(errors.InvalidName, match="tenant"):
            registry.create_tenant(name)


def test_a_key_names_its_owner_and_its_secret_is_stored_nowhere(two: Registry, home: Path) -> None:
    key_id, secret = two.create_key("acme", "publisher")
    assert two.key_owner(secret) == KeyOwner("acme", "publisher", key_id)
    assert secret.startswith("rsk_") and len(secret) >= 4 + 43  # 256 bits in base64
    assert secret not in key_id
    for file in home.rglob("*"):
        if file.is_file():
            assert secret.encode() not in file.read_bytes()


def test_a_wrong_key_has_no_owner(two: Registry) -> None:
    key_id, secret = two.create_key("acme", "caller")
    for wrong in ("", "rsk_", key_id, secret[:-1], secret + "x", secret.upper(), "\ud800", "é"):
        assert two.key_owner(wrong) is None


def test_a_key_needs_a_known_tenant_and_role(registry: Registry) -> None:
    with pytest.raises(errors.InvalidName, match="role 'root' is none of admin, publisher, caller"):
        registry.create_key("local", "root")
    with pytest.raises(errors.NotFound, match="tenant 'nobody' does not exist"):
        registry.create_key("nobody", "admin")


def test_a_revoked_key_is_nobodys_at_once_wherever_it_was_just_used(
    opened: Callable[[], Registry], two: Registry
) -> None:
    command, (key_id, secret) = opened(), two.create_key("acme", "admin")
    _, other = two.create_key("acme", "admin")
    assert two.key_owner(secret) and two.key_owner(other)
    revoked = command.revoke_key("acme", key_id)
    assert (revoked.id, revoked.state) == (key_id, "revoked")
    assert two.key_owner(secret) is command.key_owner(secret) is None
    assert two.key_owner(other)


def test_a_key_is_revoked_once_and_that_is_a_row_of_the_audit_log(two: Registry) -> None:
    key_id, _ = two.create_key("acme", "caller")
    first = two.revoke_key("acme", key_id)
    rows, seq = two.evidence.verify_audit().rows, two.changes()[-1].seq
    assert two.revoke_key("acme", key_id) == first
    assert two.evidence.verify_audit().rows == rows
    row, change = two.evidence.audit(limit=1)[0], two.changes()[-1]
    assert (row.tenant, row.action, row.object) == ("acme", "revoke key", key_id)
    assert (change.seq, change.tenant, change.kind, change.name) == (seq, "acme", "key", key_id)


def test_only_its_tenant_can_revoke_a_key_and_a_foreign_one_reads_as_unknown(two: Registry) -> None:
    key_id, secret = two.create_key("acme", "caller")

    def message(name: str) -> str:
        with pytest.raises(errors.NotFound) as caught:
            two.revoke_key("globex", name)
        return caught.value.message.replace(name, "KEY")

    assert message(key_id) == message("key_0000000000000000")
    assert two.key_owner(secret)
    with pytest.raises(errors.NotFound, match="tenant 'nobody' does not exist"):
        two.revoke_key("nobody", key_id)


def test_keys_are_listed_with_their_state_and_never_with_a_secret(two: Registry) -> None:
    now = datetime.now(UTC)
    made = [
        two.create_key("acme", role, expires_at=expires)
        for role, expires in (("caller", None), ("admin", now), ("publisher", now + timedelta(1)))
    ]
    two.create_key("globex", "admin")
    two.revoke_key("acme", made[0][0])
    listed = two.keys("acme")
    assert [(key.id, key.role, key.state) for key in listed] == [
        (made[0][0], "caller", "revoked"),
        (made[1][0], "admin", "expired"),
        (made[2][0], "publisher", "active"),
    ]
    assert [two.key_owner(secret) is not None for _, secret in made] == [False, False, True]
    assert not any(secret in repr(listed) for _, secret in made)
    assert [abs((key.created_at - now).total_seconds()) < 60 for key in listed] == [True] * 3
    with pytest.raises(errors.NotFound, match="tenant 'nobody' does not exist"):
        two.keys("nobody")


def test_a_route_is_stored_replaced_and_listed(two: Registry) -> None:
    first = two.set_route("acme", "mail", {"triage@prod": 90, "triage@canary": 10}, "triage:1")
    assert first == two.route("acme", "mail")
    assert first == Route("acme", "mail", {"triage@prod": 90, "triage@canary": 10}, "triage:1")
    second = two.set_route("acme", "mail", {"triage": 1})
    assert two.routes("acme") == [second]
    assert second.fallback is None


def test_a_route_is_not_seen_by_others(two: Registry) -> None:
    two.set_route("acme", "mail", {"triage": 1})
    assert two.routes("globex") == []
    with pytest.raises(errors.NotFound, match="task 'mail' has no route"):
        two.route("globex", "mail")


@pytest.mark.parametrize(
    ("task", "targets", "fallback", "error"),
    [
        ("mail", {}, None, errors.InvalidName),
        ("mail", {"triage": 0}, None, errors.InvalidName),
        ("mail", {"triage": -1}, None, errors.InvalidName),
        ("Mail!", {"triage": 1}, None, errors.InvalidName),
        ("mail", {"nobody": 1}, None, errors.NotFound),
        ("mail", {"triage:7": 1}, None, errors.NotFound),
        ("mail", {"triage": 1}, "nobody", errors.NotFound),
    ],
)
def test_a_route_that_leads_nowhere_is_refused(
    two: Registry,
    task: str,
    targets: dict[str, int],
    fallback: str | None,
    error: type[errors.RegistryError],
) -> None:
    with pytest.raises(error):
        two.set_route("acme", task, targets, fallback)
    assert two.routes("acme") == []


def test_a_route_to_a_foreign_adapter_is_refused(two: Registry) -> None:
    with pytest.raises(errors.NotFound):
        two.set_route("globex", "mail", {"acme/triage": 1})
