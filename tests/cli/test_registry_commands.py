"""Import, promote, list and show, as people and as programs see them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

Command = Callable[..., CompletedProcess[str]]


def parsed(ran: CompletedProcess[str]) -> Any:
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


def test_an_imported_folder_is_promoted_listed_and_shown(
    rootstock: Command, tiny: Path, peft_folder: Path
) -> None:
    made = parsed(rootstock("import", peft_folder, "--as", "triage", "--base", tiny, "--json"))
    assert made["ref"] == "triage:1"
    assert made["aliases"] == []
    assert made["base"]["name"] == "tiny"
    assert [part["kind"] for part in made["parts"]] == ["lora"]

    moved = parsed(rootstock("promote", "triage:1", "--to", "prod", "--json"))
    assert moved["aliases"] == ["prod"]
    assert moved["digest"] == made["digest"]

    listed = parsed(rootstock("list", "--json"))
    assert [base["name"] for base in listed["bases"]] == ["tiny"]
    assert listed["adapters"] == [
        {"name": "triage", "base": "tiny", "kinds": ["lora"], "latest": 1, "aliases": {"prod": 1}}
    ]

    for ref in ("triage", "triage:1", "triage@prod"):
        shown = parsed(rootstock("show", ref, "--json"))
        assert shown["digest"] == made["digest"]
        assert shown["lineage"]["source"] == "peft folder"
        assert [each["number"] for each in shown["versions"]] == [1]


def test_a_prompts_file_is_imported_as_a_version(
    rootstock: Command, tiny: Path, tmp_path: Path
) -> None:
    file = tmp_path / "asker.json"
    file.write_text('{"template": "Q: {input}"}')
    made = parsed(rootstock("import", file, "--as", "asker", "--base", tiny, "--json"))
    assert [part["kind"] for part in made["parts"]] == ["prompt"]
    again = parsed(rootstock("import", file, "--as", "asker", "--json"))
    assert again["digest"] == made["digest"], "one base is registered: a prompt is for it"
    file.write_text('{"template": "Q:"}')
    refused = rootstock("import", file, "--as", "asker")
    assert refused.returncode != 0 and "asker.json is not a prompt" in refused.stderr


def test_people_read_the_same_facts(rootstock: Command, tiny: Path, peft_folder: Path) -> None:
    made = rootstock("import", peft_folder, "--as", "triage", "--base", f"t={tiny}")
    assert made.returncode == 0
    assert "local/triage:1" in made.stdout and "lora on t" in made.stdout
    listed, shown = rootstock("list"), rootstock("show", "triage")
    assert "triage" in listed.stdout and "llama" in listed.stdout
    digest = next(word for word in made.stdout.split() if word.startswith("sha256:"))
    assert f"digest    {digest}\n" in shown.stdout


def test_a_promotion_can_come_with_the_import(
    rootstock: Command, tiny: Path, peft_folder: Path
) -> None:
    ran = rootstock(
        "import", peft_folder, "--as", "a", "--base", tiny, "--promote", "canary", "--json"
    )
    assert parsed(ran)["aliases"] == ["canary"]


def test_the_one_base_that_fits_need_not_be_named(
    rootstock: Command, tiny: Path, wider: Path, peft_folder: Path
) -> None:
    other = rootstock("import", peft_folder, "--as", "a", "--base", wider)
    assert other.returncode == 1
    assert "wider" in other.stderr
    assert rootstock("import", peft_folder, "--as", "a", "--base", tiny).returncode == 0
    made = parsed(rootstock("import", peft_folder, "--as", "b", "--json"))
    assert made["base"]["name"] == "tiny"
    assert parsed(rootstock("import", peft_folder, "--as", "c", "--base", "tiny", "--json"))


def test_an_import_without_any_base_says_how_to_name_one(
    rootstock: Command, peft_folder: Path
) -> None:
    ran = rootstock("import", peft_folder, "--as", "a")
    assert ran.returncode == 1
    assert "--base" in ran.stderr


def test_a_truncated_file_is_refused_by_its_name(
    rootstock: Command, tiny: Path, peft_folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(peft_folder, broken)
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    ran = rootstock("import", broken, "--as", "a", "--base", tiny)
    assert ran.returncode == 1
    assert "adapter_model.safetensors" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert parsed(rootstock("list", "--json"))["adapters"] == []


def test_unknown_things_are_named(rootstock: Command) -> None:
    for arguments, word in [
        (("show", "nobody"), "nobody"),
        (("show", "nobody:3"), "nobody:3"),
        (("promote", "nobody:1", "--to", "prod"), "nobody:1"),
        (("list", "--tenant", "nobody"), "rootstock tenant create nobody"),
        (("import", "/", "--as", "a", "--base", "nothing"), "shipped: minilm, demo"),
        (("import", "/", "--as", "a", "--base", "org/nothing"), "local folder"),
    ]:
        ran = rootstock(*arguments)
        assert ran.returncode == 1
        assert ran.stderr.startswith("rootstock: ") and word in ran.stderr
        assert len(ran.stderr.strip().splitlines()) == 1


def test_a_new_home_keeps_its_rows_where_the_environment_says(
    rootstock: Command, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rootstock("tenant", "create", "acme").returncode == 0
    monkeypatch.setenv("ROOTSTOCK_DATABASE_URL", "postgresql://me:hush@127.0.0.1:1/registry")
    split = rootstock("list")
    assert split.returncode == 1 and "keeps its registry elsewhere" in split.stderr
    elsewhere = rootstock("list", "--home", home / "new")
    assert elsewhere.returncode == 1 and "me:***@127.0.0.1:1/registry" in elsewhere.stderr
    assert not (home / "new" / "registry.db").exists()
    assert "hush" not in split.stderr + elsewhere.stderr


def test_an_empty_registry_says_how_to_begin(rootstock: Command) -> None:
    assert "rootstock serve" in rootstock("list").stdout
