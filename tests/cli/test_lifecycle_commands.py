"""Versions, aliases, yanking, deleting and collecting, as people and as programs see them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Command = Callable[..., CompletedProcess[str]]


def parsed(ran: CompletedProcess[str]) -> Any:
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def refused(ran: CompletedProcess[str], *words: str) -> None:
    assert ran.returncode == 1
    assert ran.stderr.startswith("rootstock: ") and len(ran.stderr.strip().splitlines()) == 1
    assert all(word in ran.stderr for word in words), ran.stderr


@pytest.fixture
def three(rootstock: Command, tiny: Path, tmp_path: Path) -> Command:
    """The prompts `asker:1` to `asker:3`, the second one promoted to prod, then the third."""
    file = tmp_path / "asker.json"
    for number in (1, 2, 3):
        file.write_text(json.dumps({"template": f"{number}: {{input}}"}))
        base = ("--base", tiny) if number == 1 else ()
        assert rootstock("import", file, "--as", "asker", *base).returncode == 0
    for number in (2, 3):
        assert rootstock("promote", f"asker:{number}", "--to", "prod").returncode == 0
    return rootstock


def test_versions_come_newest_first_and_in_pages(three: Command) -> None:
    first = parsed(three("versions", "asker", "--limit", "2", "--json"))
    assert [each["number"] for each in first["versions"]] == [3, 2]
    assert first["has_more"] and first["versions"][0]["aliases"] == ["prod"]
    rest = parsed(three("versions", "asker", "--after", "2", "--json"))
    assert [each["number"] for each in rest["versions"]] == [1] and not rest["has_more"]
    told = three("versions", "asker", "--limit", "1").stdout
    assert "@prod" in told and "rootstock versions asker --after 3" in told
    refused(three("versions", "nobody"), "nobody")


def test_adapters_come_in_pages(three: Command, tmp_path: Path) -> None:
    file = tmp_path / "asker.json"
    for name in ("b", "c"):
        assert three("import", file, "--as", name).returncode == 0
    first = parsed(three("list", "--limit", "2", "--json"))
    assert [each["name"] for each in first["adapters"]] == ["asker", "b"] and first["has_more"]
    rest = parsed(three("list", "--after", "b", "--json"))
    assert [each["name"] for each in rest["adapters"]] == ["c"] and not rest["has_more"]
    assert "rootstock list --after asker" in three("list", "--limit", "1").stdout


def test_the_next_page_is_asked_of_the_same_tenant(three: Command, tmp_path: Path) -> None:
    assert three("tenant", "create", "acme").returncode == 0
    file = tmp_path / "asker.json"
    for name in ("b", "c"):
        made = three("import", file, "--as", name, "--tenant", "acme", "--promote", "prod")
        assert made.returncode == 0
    for command, more in (
        (("list",), "rootstock list --after b --tenant acme"),
        (("alias", "list"), "rootstock alias list --after b@prod --tenant acme"),
    ):
        assert more in three(*command, "--limit", "1", "--tenant", "acme").stdout
    told = three("audit", "--limit", "1", "--tenant", "acme").stdout
    assert "rootstock audit --tenant acme --after" in told


def test_an_alias_is_set_goes_back_and_is_deleted(three: Command) -> None:
    assert parsed(three("alias", "set", "asker", "canary", "1", "--json"))["aliases"] == ["canary"]
    listed = parsed(three("alias", "list", "asker", "--json"))
    assert [(each["alias"], each["version"]) for each in listed["aliases"]] == [
        ("canary", 1), ("prod", 3),
    ]  # fmt: skip
    assert parsed(three("rollback", "asker", "--json"))["number"] == 2
    refused(three("rollback", "asker"), "no earlier version")
    refused(three("rollback", "asker:1"), "is not NAME or NAME@ALIAS")
    moves = parsed(three("alias", "history", "asker", "prod", "--json"))["moves"]
    assert [move["version"] for move in moves] == [2, 3, 2]
    assert "asker:3" in three("alias", "history", "asker", "prod").stdout
    assert parsed(three("alias", "delete", "asker", "canary", "--json"))["deleted"]
    assert "asker@prod" in three("alias", "list").stdout
    refused(three("show", "asker@canary"), "canary")
    refused(three("alias", "history", "asker", "nobody"), "never")


def test_a_yanked_version_is_marked_and_cannot_be_promoted(three: Command) -> None:
    assert (
        "it is yanked (leaks names)" in three("yank", "asker:1", "--reason", "leaks names").stdout
    )
    refused(three("promote", "asker:1", "--to", "prod"), "leaks names")
    assert "yanked" in three("versions", "asker").stdout
    assert "leaks names" in three("show", "asker:1").stdout
    refused(three("yank", "asker:1", "--undo", "--reason", "x"), "--undo")
    assert "yanked" not in three("yank", "asker:1", "--undo").stdout
    assert three("yank", "asker:1", "--reason", "\x1b[31mred\n").returncode == 0
    assert parsed(three("show", "asker:1", "--json"))["yank_reason"] == "\\x1b[31mred\\n"
    assert three("yank", "asker:1", "--undo").returncode == 0
    assert three("promote", "asker:1", "--to", "prod").returncode == 0


def test_a_deleted_versions_bytes_are_collected(three: Command, home: Path) -> None:
    digest = parsed(three("show", "asker:3", "--json"))["digest"].removeprefix("sha256:")
    blob = home / "blobs" / "sha256" / digest[:2] / digest[2:]
    assert blob.exists()
    refused(three("delete", "asker:3"), "asker@prod", "force")
    assert parsed(three("delete", "asker:3", "--force", "--json"))["deleted"]
    refused(three("show", "asker:3"), "asker")
    found = parsed(three("gc", "--grace", "0", "--dry-run", "--json"))
    assert found["garbage"] >= 1 and blob.exists()
    assert "nothing was touched" in three("gc", "--dry-run").stdout
    assert parsed(three("gc", "--grace", "0", "--json"))["swept"] == found["garbage"]
    assert not blob.exists()
    row = parsed(three("audit", "--json"))["rows"][0]
    assert row["action"] == "collect garbage" and f"sha256:{digest}" in row["detail"]["blobs"]
    assert three("delete", "asker", "--force").returncode == 0
    assert parsed(three("list", "--json"))["adapters"] == []
