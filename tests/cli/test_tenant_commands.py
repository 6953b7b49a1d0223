"""Tenants, keys and routes from the command line, as the registry then has them."""

from __future__ import annotations

from collections.abc import Callable
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
