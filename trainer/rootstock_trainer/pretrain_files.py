"""Documents out of a user's files: JSONL, Parquet and plain text, one by one or by the folder.

Every fault is told at once, with its file and line. Refuses to know tokens and models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from rootstock_trainer.pretrain_settings import ROLES, PretrainError

Row = dict[str, Any]
MAX_SHOWN = 20
FORM = (
    f'a row is {{"text": "…"}} or {{"messages": [{{"role": "{"|".join(ROLES)}", "content": "…"}}]}}'
)


class _Faults:
    """Collects what is wrong, so that one look at the data mends all."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, where: str, what: str) -> None:
        self.found.append(f"{where}: {what}")

    def check(self) -> None:
        if self.found:
            more = len(self.found) - MAX_SHOWN
            last = [f"and {more} more"] if more > 0 else []
            raise PretrainError("\n  ".join(self.found[:MAX_SHOWN] + last))


def files_of(paths: Iterable[Path]) -> dict[str, Path]:
    """The files that can be read, each under a name without the folders above what was given.

    Raises `PretrainError` for what is not there, is of an unknown kind, or is a folder without a
    file that can be read.
    """
    files: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            below = [each for each in sorted(path.rglob("*")) if each.suffix.lower() in READERS]
            if not below:
                raise PretrainError(f"data folder {path} has no file ending in {_KINDS}")
            top = path.resolve()
            files |= {f"{top.name}/{each.relative_to(path).as_posix()}": each for each in below}
        elif not path.is_file():
            raise PretrainError(f"data file {path} does not exist")
        elif path.suffix.lower() not in READERS:
            raise PretrainError(f"data file {path}: the name must end in {_KINDS}")
        else:
            files[path.name] = path
    return files


def read_rows(files: Iterable[Path]) -> list[Row]:
    """Every document: `{"text": str}` or `{"messages": [{"role", "content"}]}`.

    Raises `PretrainError` naming file and line of everything that is neither, or for no rows.
    """
    rows: list[Row] = []
    faults = _Faults()
    for file in files:
        rows += READERS[file.suffix.lower()](file, faults)
    faults.check()
    if not rows:
        raise PretrainError("the data has no rows: give at least one file with documents")
    return rows


def _jsonl(file: Path, faults: _Faults) -> Iterator[Row]:
    for number, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.add(where, f"not JSON ({getattr(error, 'msg', error)})")
            continue
        if _is_row(row):
            yield row
        else:
            faults.add(where, FORM)


def _plain(file: Path, faults: _Faults) -> Iterator[Row]:
    """Blank lines part the documents; where there are none, every line is one."""
    lines = [line.rstrip() for line in _lines(file)]
    if all(lines):
        yield from ({"text": line} for line in lines)
        return
    document: list[str] = []
    for line in [*lines, ""]:
        if line:
            document.append(line)
        elif document:
            yield {"text": "\n".join(document)}
            document = []


def _parquet(file: Path, faults: _Faults) -> Iterator[Row]:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            names = set(table.schema_arrow.names)
            columns = [name for name in ("text", "messages") if name in names]
            if not columns:
                faults.add(str(file), f"no column text or messages (columns: {sorted(names)})")
                return
            number = 0
            for batch in table.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    given = {name: value for name, value in row.items() if value is not None}
                    if _is_row(given):
                        yield given
                    else:
                        faults.add(f"{file}, row {number}", FORM)
    except arrow.ArrowException as error:
        faults.add(str(file), f"cannot be read as Parquet ({str(error).splitlines()[0]})")


def _lines(file: Path) -> list[str]:
    data = file.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise PretrainError(
            f"{file}, line {line}: not UTF-8 text; save the file as UTF-8"
        ) from None
    # Not str.splitlines, which would cut a document at U+2028.
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def _is_row(row: object) -> bool:
    if not isinstance(row, dict):
        return False
    if isinstance(row.get("text"), str) and row["text"].strip():
        return True
    messages = row.get("messages")
    return isinstance(messages, list) and bool(messages) and all(map(_is_message, messages))


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and message.get("role") in ROLES
        and isinstance(message.get("content"), str)
    )


READERS: dict[str, Callable[[Path, _Faults], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".ndjson": _jsonl,
    ".txt": _plain,
    ".parquet": _parquet,
}
_KINDS = ", ".join(READERS)
