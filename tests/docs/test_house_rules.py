"""Rules of the house that no linter knows, read from the source itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "server" / "rootstock_server"
ROOMS = ("server", "adapters_registry", "trainer", "clients", "benchmarks")
LOCKS = {"Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition", "Barrier"}
# The front end's side of the socket; everything else in these rooms runs in the engine's process.
FRONT_END = {"client.py", "supervisor.py", "tokenizer.py"}


def test_the_engine_process_has_no_locks() -> None:
    files = [
        file
        for room in ("engine", "adapters", "base", "backends")
        for file in (SERVER / room).rglob("*.py")
        if file.name not in FRONT_END
    ]
    assert len(files) > 15
    assert not [file.name for file in files if _names(file) & LOCKS]


def test_no_server_room_but_three_names_a_kind() -> None:
    allowed = {SERVER / "backends", SERVER / "api", SERVER / "telemetry.py"}
    named = [
        file.relative_to(SERVER).as_posix()
        for file in SERVER.rglob("*.py")
        if not allowed & {file, *file.parents} and re.search("lora", file.read_text(), re.I)
    ]
    assert not named


def test_no_folder_is_called_utils_common_helpers_or_misc() -> None:
    folders = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_dir()]
    assert not [path for path in folders if path.name in {"utils", "common", "helpers", "misc"}]


def _names(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return attributes | {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
