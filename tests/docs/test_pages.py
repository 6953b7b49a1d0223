"""What the documents name exists: links, files, tests, commands and options; tables are current."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import typer
from rootstock_adapters.kinds import KINDS
from rootstock_cli.main import app

ROOT = Path(__file__).resolve().parents[2]
TOP = ("server/", "adapters_registry/", "trainer/", "clients/", "tests/", "docs/", "benchmarks/")
MADE_LATER = {"benchmarks/results/"}  # written by the command that the same sentence names
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")


def test_every_link_leads_somewhere(written_pages: list[Path]) -> None:
    dead = [
        f"{page.name}: {target}"
        for page in written_pages
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if not target.startswith("https://") and not (page.parent / target).exists()
    ]
    assert not dead


def test_every_file_that_is_named_exists(written_pages: list[Path]) -> None:
    named = {
        (page.name, span.partition("::")[0])
        for page in written_pages
        for span in SPAN.findall(page.read_text(encoding="utf-8"))
        if span.startswith(TOP) and not re.search(r"[A-Z ]", span) and span not in MADE_LATER
    }
    assert len(named) > 5
    assert not [name for name in named if not (ROOT / name[1]).exists()]


def test_every_test_that_proves_an_invariant_exists() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    proofs = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(proofs) > 10
    missing = [
        f"{file}::{name}"
        for file, name in proofs
        if not re.search(rf"def {name}\b", (ROOT / file).read_text(encoding="utf-8"))
    ]
    assert not missing


def test_every_decision_is_in_the_list() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = LINK.findall((folder / "README.md").read_text(encoding="utf-8"))
    pages = sorted(page.name for page in folder.glob("[0-9]*.md"))
    assert sorted(listed) == pages


def test_generated_tables_are_current() -> None:
    command = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_readme_names_the_kinds_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    kinds = text[text.index("## Kinds of adapters") : text.index("## Commands")]
    rows = re.findall(r"^\| `(\w+)` \| .* \|$", kinds, re.MULTILINE)
    assert set(rows) == KINDS.keys()


def test_commands_and_options_that_are_shown_exist(
    written_pages: list[Path], written_blocks: list[Any]
) -> None:
    lines = [line.removeprefix("$ ") for b in written_blocks for line in b.code.splitlines()]
    lines += [s for page in written_pages for s in SPAN.findall(page.read_text(encoding="utf-8"))]
    shown = [line for line in lines if re.match(r"(\w+=\$\()?rootstock [a-z]", line)]
    assert len(shown) > 20
    assert not [line for line in shown if _fault(line)]


@pytest.mark.parametrize(
    "line",
    ["rootstock fly", "rootstock serve --wings 2", "KEY=$(rootstock key destroy)"],
)
def test_a_command_that_does_not_exist_would_be_found(line: str) -> None:
    assert _fault(line)


def _fault(line: str) -> str | None:
    """What is wrong with a shown command line."""
    words = line.partition("rootstock ")[2].rstrip(")").split()
    command = cast(Any, typer.main.get_command(app))
    while words and hasattr(command, "commands"):
        if command.invoke_without_command and words[0].startswith("--"):
            break
        if words[0] not in command.commands:
            return f"no command {words[0]}"
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    unknown = [word for word in words if re.match(r"--[a-z]", word) and word not in known]
    return f"no option {unknown[0]}" if unknown else None
