"""Records with their line numbers out of a CSV or JSONL file, and every fault of a file at once.

Refuses to know which columns mean what.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rootstock_trainer.errors import BadData

MAX_SHOWN = 20


class Record(NamedTuple):
    line: int  # the line of the file, from 1, where the record ends
    fields: dict[str, Any]


class Faults:
    """Collects what is wrong with a file, so that one look at it mends all."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.found: list[tuple[int, str]] = []

    def add(self, line: int, message: str) -> None:
        self.found.append((line, message))

    def check(self) -> None:
        """Raises BadData with the first 20 faults, by line, and the number of the others."""
        if not self.found:
            return
        shown = sorted(self.found)[:MAX_SHOWN]
        lines = [f"line {line}: {message}" for line, message in shown]
        if len(self.found) > MAX_SHOWN:
            lines.append(f"and {len(self.found) - MAX_SHOWN} more")
        rows = "1 row" if len(self.found) == 1 else f"{len(self.found)} rows"
        raise BadData(f"{self.file.name}: {rows} cannot be used\n  " + "\n  ".join(lines))


def read_records(file: Path, needed: Iterable[str] = ()) -> tuple[list[Record], Faults]:
    """Every record of `file`, a UTF-8 CSV with a header line or JSONL, and the faults so far.

    `needed` are columns that a CSV's header must name. Raises BadData where there is no such file,
    its kind is unknown, or it has no rows.
    """
    if not file.is_file():
        raise BadData(f"there is no file {file}")
    faults = Faults(file)
    readers = {".csv": _csv, ".jsonl": _jsonl, ".ndjson": _jsonl}
    if file.suffix.lower() not in readers:
        raise BadData(f"{file.name}: the name must end in .csv or .jsonl")
    lines = _lines(file)
    if file.suffix.lower() == ".csv":
        _check_header(file, lines, needed)
    records = list(readers[file.suffix.lower()](lines, faults))
    if not records and not faults.found:
        raise BadData(f"{file.name}: the file has no rows")
    return records, faults


def _lines(file: Path) -> list[str]:
    data = file.read_bytes()
    try:
        # StringIO ends lines at \n and \r only: str.splitlines would cut a text at U+2028.
        return list(io.StringIO(data.decode("utf-8-sig"), newline=""))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise BadData(
            f"{file.name}: line {line} is not UTF-8 text: save the file as UTF-8"
        ) from None


def _check_header(file: Path, lines: list[str], needed: Iterable[str]) -> None:
    try:
        header = next(csv.reader(lines, strict=True), [])
    except csv.Error as error:
        raise BadData(f"{file.name}: line 1: {error}") from None
    missing = [column for column in needed if column not in header]
    if missing:
        found = ", ".join(header) or "none"
        raise BadData(f"{file.name}: no column named {missing[0]!r} (columns: {found})")
    if len(set(header)) != len(header):
        raise BadData(f"{file.name}: two columns have the same name ({', '.join(header)})")


def _csv(lines: list[str], faults: Faults) -> Iterator[Record]:
    reader = csv.reader(lines, strict=True)
    header = next(reader)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            faults.add(reader.line_num, str(error))
            continue
        if row is None:
            return
        if not row:
            continue
        if len(row) != len(header):
            faults.add(reader.line_num, f"{len(row)} fields, the header has {len(header)}")
            continue
        yield Record(reader.line_num, dict(zip(header, row, strict=True)))


def _jsonl(lines: list[str], faults: Faults) -> Iterator[Record]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.add(number, f"not JSON ({error})")
            continue
        if not isinstance(fields, dict):
            faults.add(number, "not a JSON object")
            continue
        yield Record(number, fields)
