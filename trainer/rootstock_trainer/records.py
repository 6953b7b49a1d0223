"""Records with their line numbers, streamed out of a CSV, JSONL or Parquet file, and its faults.

Refuses to know which columns mean what.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rootstock_adapters.errors import printable
from rootstock_wire.fine_tuning import MAX_RECORD_CHARS

from rootstock_trainer.errors import BadData

MAX_SHOWN = 20
MAX_NAME_CHARS = 40
MAX_ERROR_CHARS = 200
PIECE = 1 << 16  # bytes
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
            self._first = sorted([*self._first, (line, printable(message))])[:MAX_SHOWN]

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


def is_text(value: object) -> bool:
    """Half a surrogate pair, which JSON can write, has no UTF-8 form: no digest, no tokens."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def named(columns: Iterable[object]) -> str:
    """Columns as an error names them: a stranger's file may have very many, and very long ones."""
    names = [printable(str(column)[:MAX_NAME_CHARS]) for column in columns]
    more = [f"and {len(names) - MAX_SHOWN} more"] if len(names) > MAX_SHOWN else []
    return ", ".join(names[:MAX_SHOWN] + more) or "none"


def _lines(file: Path) -> Iterator[str]:
    # newline="" ends lines at \n and \r only: str.splitlines would cut a text at U+2028.
    with file.open(encoding="utf-8-sig", newline="") as text:
        number = 0
        try:
            while line := text.readline(MAX_RECORD_CHARS + 1):
                number += 1
                _check_size(file, number, len(line))
                yield line
        except UnicodeDecodeError:
            raise BadData(
                f"{file.name}: line {_undecodable(file)} is not UTF-8 text: save the file as UTF-8"
            ) from None


def _check_size(file: Path, line: int, size: int) -> None:
    """What is read at once is bounded: a file may be one line, or one open quote."""
    if size > MAX_RECORD_CHARS:
        raise BadData(
            f"{file.name}: line {line}: a row is over {MAX_RECORD_CHARS} characters: is a line "
            "break or a quote missing?"
        )


def _undecodable(file: Path) -> int:
    decoder = codecs.getincrementaldecoder("utf-8")()
    number = 1
    with file.open("rb") as stream:
        while piece := stream.read(PIECE):
            try:
                decoder.decode(piece)
            except UnicodeDecodeError as error:
                return number + error.object[: error.start].count(b"\n")
            number += piece.count(b"\n")
    return number  # it ends within a character


def _check_columns(file: Path, columns: Sequence[str], needed: Iterable[str]) -> None:
    if missing := [column for column in needed if column not in columns]:
        found = named(columns)
        raise BadData(f"{file.name}: no column named {missing[0]!r} (columns: {found})")
    if len(set(columns)) != len(columns):
        raise BadData(f"{file.name}: two columns have the same name ({named(columns)})")


def _csv(file: Path, faults: Faults, needed: Sequence[str]) -> Iterator[Record]:
    held = 0  # characters of the lines that the record takes: a quote may be open over many

    def lines() -> Iterator[str]:
        nonlocal held
        for line in _lines(file):
            held += len(line)
            _check_size(file, reader.line_num + 1, held)
            yield line

    reader = csv.reader(lines(), strict=True)
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise BadData(f"{file.name}: line 1: {error}") from None
    _check_columns(file, header, needed)
    while True:
        held = 0
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
    from pyarrow.parquet import ParquetFile  # slow to import, and only this kind needs it

    try:
        table = ParquetFile(file)
        _check_columns(file, table.schema_arrow.names, needed)
        number = 0
        for batch in table.iter_batches(PARQUET_BATCH):
            for fields in batch.to_pylist():
                number += 1
                # A column that most rows leave empty is a field that those rows do not have.
                yield Record(number, {n: v for n, v in fields.items() if v is not None})
    except BadData:
        raise
    # Beside its own errors, whatever Python raises where a value has no form here: a text that is
    # not UTF-8, a day after the year 9999.
    except Exception as error:
        first_line = printable(str(error).partition("\n")[0][:MAX_ERROR_CHARS])
        raise BadData(f"{file.name} cannot be read as Parquet: {first_line}") from None
