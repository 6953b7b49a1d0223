"""The documents as tests see them: pages, and their blocks of code with the notes before them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"```([a-z]+)")
_NOTE = re.compile(r"<!-- (not run|answers differ): (\S.*) -->")
# In this order: the blocks of a page may build on those before it.
RUN_IN_ORDER = (
    "README.md",
    "docs/doors.md",
    "docs/training.md",
    "docs/evidence.md",
    "CONTRIBUTING.md",
)


class Block(NamedTuple):
    """A fenced block; `note` is `not run` or `answers differ` where a comment before it says so."""

    page: str
    line: int
    language: str
    code: str
    note: str | None


def pages() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of `page`, in order. A fence without a language is an error."""
    lines = page.read_text(encoding="utf-8").splitlines()
    name, opened = page.relative_to(ROOT).as_posix(), 0
    found: list[Block] = []
    for number, line in enumerate(lines, start=1):
        if not line.startswith("```"):
            continue
        if not opened:
            opened = number
            continue
        fence = _FENCE.fullmatch(lines[opened - 1])
        if fence is None:
            raise ValueError(f"{name}:{opened}: say the language of this block")
        note = _NOTE.fullmatch(lines[opened - 2])
        code = "\n".join(lines[opened : number - 1])
        found.append(Block(name, opened, fence[1], code, note[1] if note else None))
        opened = 0
    return found


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks_of(page)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "block" in metafunc.fixturenames:
        chosen = [block for page in RUN_IN_ORDER for block in blocks_of(ROOT / page)]
        runnable = [block for block in chosen if block.language in ("sh", "console", "python")]
        metafunc.parametrize("block", runnable, ids=lambda block: f"{block.page}:{block.line}")


@pytest.fixture(scope="session")
def written_blocks() -> list[Block]:
    return all_blocks()


@pytest.fixture(scope="session")
def written_pages() -> list[Path]:
    return pages()
