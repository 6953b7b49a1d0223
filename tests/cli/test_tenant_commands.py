"""Tenants, keys and routes from the command line, as the registry then has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from rootstock_registry import Registry

Command = Callable[..., CompletedProcess[str]]


def test_a_key_is_printed_alone_and_belongs_to_its_tenant(rootstock: Command, home: Path) -> None:
    assert rootstock("tenant", "create", "acme").returncode == 0
    ran = rootstock("key", "create", "--tenant", "acme", "--role", "publisher")
    assert ran.returncode == 0
    owner = Registry(home).key_owner(ran.stdout.strip())
    assert owner is not None
    assert (owner.tenant, owner.role) == ("acme", "publisher")
    assert "not shown again" in ran.stderr and ran.stdout.strip() not in ran.stderr


def test_keys_are_listed_without_secrets_and_taken_back(rootstock: Command, home: Path) -> None:
    rootstock("tenant", "create", "acme")
    made = [
        rootstock("key", "create", "--tenant", "acme", *expires)
        for expires in ([], ["--expires", "30d"], ["--expires", "2900-12-31"])
    ]
    secrets = [ran.stdout.strip() for ran in made]
    ids = [ran.stderr.partition(":")[0] for ran in made]
    revoked = rootstock("key", "revoke", ids[0], "--tenant", "acme")
    assert revoked.returncode == 0 and f"{ids[0]} of acme is revoked since" in revoked.stdout
    assert rootstock("key", "revoke", ids[0], "--tenant", "acme").stdout == revoked.stdout
    assert Registry(home).key_owner(secrets[0]) is None
    listed = rootstock("key", "list", "--tenant", "acme")
    lines = listed.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ids
    assert [line.split()[-1] for line in lines] == ["revoked", "active", "active"]
    assert "never" in lines[0] and "2900-12-31 00:00" in lines[2]
    assert not any(secret in listed.stdout for secret in secrets)
    facts = json.loads(rootstock("key", "list", "--tenant", "acme", "--json").stdout)["keys"]
    assert [each["state"] for each in facts] == ["revoked", "active", "active"]
    lasts = [datetime.fromisoformat(facts[1][name]) for name in ("created_at", "expires_at")]
    assert timedelta(days=30) - timedelta(minutes=1) < lasts[1] - lasts[0] <= timedelta(days=30)


@pytest.mark.parametrize("expires", ["soon", "30", "0d", "-1d", "2001-01-01", "2030-13-01"])
def test_an_expiry_that_is_none_or_has_passed_is_wrong_usage(
    rootstock: Command, expires: str
) -> None:
    ran = rootstock("key", "create", "--tenant", "local", "--expires", expires)
    assert ran.returncode == 2 and expires in ran.stderr


def test_an_unknown_key_is_not_revoked_in_words(rootstock: Command) -> None:
    ran = rootstock("key", "revoke", "key_0", "--tenant", "local")
    assert ran.returncode == 1 and "tenant 'local' has no key 'key_0'" in ran.stderr
    assert "rootstock tenant create" in rootstock("key", "list", "--tenant", "nobody").stderr


def test_a_tenant_twice_a_key_for_nobody_and_an_unknown_role_are_refused(
    rootstock: Command,
) -> None:
    rootstock("tenant", "create", "acme")
    assert rootstock("tenant", "create", "acme").returncode == 1
    assert rootstock("tenant", "create", "No Spaces").returncode == 1
    nobody = rootstock("key", "create", "--tenant", "nobody")
    assert nobody.returncode == 1
    assert "rootstock tenant create nobody" in nobody.stderr
    assert rootstock("key", "create", "--tenant", "acme", "--role", "king").returncode == 2


def test_a_route_keeps_its_weights_and_its_fallback(
    rootstock: Command, home: Path, tiny: Path, peft_folder: Path
) -> None:
    rootstock("import", peft_folder, "--as", "triage", "--base", tiny, "--promote", "prod")
    ran = rootstock("route", "set", "sort", "triage@prod=90", "triage:1=10", "--fallback", "triage")
    assert ran.returncode == 0, ran.stderr
    route = Registry(home).route("local", "sort")
    assert route.targets == {"triage@prod": 90, "triage:1": 10}
    assert route.fallback == "triage"


@pytest.mark.parametrize("target", ["triage", "triage=", "triage=many", "triage=-1"])
def test_a_target_without_a_whole_weight_is_wrong_usage(rootstock: Command, target: str) -> None:
    ran = rootstock("route", "set", "sort", target)
    assert ran.returncode == 2
    assert target in ran.stderr


def test_a_route_to_nothing_is_refused(rootstock: Command) -> None:
    ran = rootstock("route", "set", "sort", "nobody@prod=100")
    assert ran.returncode == 1
    assert "nobody@prod" in ran.stderr
