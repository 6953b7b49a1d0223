"""Records with their line numbers, streamed out of a CSV, JSONL or Parquet file, and its faults.

Refuses to know which columns mean what.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rootstock_trainer.errors import BadData

MAX_SHOWN = 20
PARQUET_BATCH = 512  # rows that are decoded at once
KINDS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


class Record(NamedTuple):
    line: int  # of the file, from 1, where the record ends; of a Parquet file the row
    fields: dict[str, Any]


class Faults:
    """Collects what is wrong with a file, so that one look at it mends all.

    Keeps the first 20 and counts the others: a file may have as many faults as rows.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.count = 0
        self._first: list[tuple[int, str]] = []

    def add(self, line: int, message: str) -> None:
        self.count += 1
        if len(self._first) < MAX_SHOWN or line < self._first[-1][0]:
            self._first = sorted([*self._first, (line, message)])[:MAX_SHOWN]

    def check(self) -> None:
        """Raises BadData with the first 20 faults, by line, and the number of the others."""
        if not self.count:
            return
        word = "row" if kind_of(self.file) == "parquet" else "line"
        lines = [f"{word} {line}: {message}" for line, message in self._first]
        if self.count > MAX_SHOWN:
            lines.append(f"and {self.count - MAX_SHOWN} more")
        rows = "1 row" if self.count == 1 else f"{self.count} rows"
        raise BadData(f"{self.file.name}: {rows} cannot be used\n  " + "\n  ".join(lines))


def read_records(file: Path, needed: Iterable[str] = ()) -> tuple[list[Record], Faults]:
    """Every record of `file` at once, and the faults so far; raises BadData as `stream` does."""
    faults = Faults(file)
    return list(stream(file, faults, needed)), faults


def stream(file: Path, faults: Faults, needed: Iterable[str] = ()) -> Iterator[Record]:
    """The records of `file` one after another: UTF-8 CSV with a header line, JSONL, or Parquet.

    `needed` are columns that a table must have. A record that cannot be read goes to `faults`.
    Raises BadData where there is no such file, its kind is unknown, or it has no rows.
    """
    if not file.is_file():
        raise BadData(f"there is no file {file}")
    readers = {"csv": _csv, "jsonl": _jsonl, "parquet": _parquet}
    kind = kind_of(file)
    if kind is None:
        raise BadData(f"{file.name}: the name must end in .csv or .jsonl or .parquet")
    empty = True
    for record in readers[kind](file, faults, tuple(needed)):
        empty = False
        yield record
    if empty and not faults.count:
        raise BadData(f"{file.name}: the file has no rows")


def kind_of(file: Path) -> str | None:
    return KINDS.get(file.suffix.lower())


def first_record(file: Path) -> Record:
    """The first record that can be read; raises BadData where there is none."""
    faults = Faults(file)
    for record in stream(file, faults):
        return record
    faults.check()
    raise BadData(f"{file.name}: the file has no rows")


def _lines(file: Path) -> Iterator[str]:
    # newline="" ends lines at \n and \r only: str.splitlines would cut a text at U+2028.
    with file.open(encoding="utf-8-sig", newline="") as text:
        try:
            yield from text
        except UnicodeDecodeError:
            raise BadData(
                f"{file.name}: line {_undecodable(file)} is not UTF-8 text: save the file as UTF-8"
            ) from None


def _undecodable(file: Path) -> int:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return 1


def _check_columns(file: Path, columns: Sequence[str], needed: Iterable[str]) -> None:
    if missing := [column for column in needed if column not in columns]:
        found = ", ".join(columns) or "none"
        raise BadData(f"{file.name}: no column named {missing[0]!r} (columns: {found})")
    if len(set(columns)) != len(columns):
        raise BadData(f"{file.name}: two columns have the same name ({', '.join(columns)})")


def _csv(file: Path, faults: Faults, needed: Sequence[str]) -> Iterator[Record]:
    reader = csv.reader(_lines(file), strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise BadData(f"{file.name}: line 1: {error}") from None
    _check_columns(file, header, needed)
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


def _jsonl(file: Path, faults: Faults, needed: Sequence[str]) -> Iterator[Record]:
    for number, line in enumerate(_lines(file), start=1):
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


def _parquet(file: Path, faults: Faults, needed: Sequence[str]) -> Iterator[Record]:
    import pyarrow  # slow to import, and only this kind of file needs it
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(file)
        _check_columns(file, table.schema_arrow.names, needed)
        number = 0
        for batch in table.iter_batches(PARQUET_BATCH):
            for fields in batch.to_pylist():
                number += 1
                # A column that most rows leave empty is a field that those rows do not have.
                yield Record(number, {n: v for n, v in fields.items() if v is not None})
    except (pyarrow.ArrowException, OSError) as error:
        first_line = str(error).partition("\n")[0]
        raise BadData(f"{file.name} cannot be read as Parquet: {first_line}") from None
