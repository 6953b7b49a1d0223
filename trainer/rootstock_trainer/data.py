"""Training examples: checked all at once, digested, and split into training and held-out rows.

A file is read twice: once to check it and to know its rows by digest and label, once to hand its
rows on. What is kept between is a few bytes a row. Refuses to know tokenizers, models and methods.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rootstock_trainer.errors import BadData, BadSpec
from rootstock_trainer.records import Faults, first_record, kind_of, named, stream
from rootstock_trainer.rows import (
    Chat,
    Columns,
    Completion,
    Example,
    Labelled,
    Message,
    Row,
    Tagged,
    rows_of,
    task_of,
)
from rootstock_trainer.spec import Task, TrainSpec
from rootstock_trainer.split import (
    Indices,
    Keys,
    key_of,
    repeats,
    split,
    split_keys,
    with_every_label,
)

__all__ = [
    "Chat", "Columns", "Completion", "Dataset", "Example", "LabelledText", "Message", "Rows",
    "dataset_digest", "open_rows", "read_examples", "read_labelled", "split",
]  # fmt: skip

MIN_PROMPTS = 5
MAX_LABELS = 1024


class LabelledText(NamedTuple):
    text: str
    label: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """A checked file: what is known of its N rows without holding them."""

    file: Path
    task: Task
    columns: Columns
    keys: Keys  # [N] digest of what each row asks
    labels: tuple[tuple[str, ...], ...]  # by column, sorted; of token-classify one column
    targets: NDArray[np.int32]  # [N, columns] index into `labels`; no columns for other tasks
    digest: str

    @classmethod
    def read(cls, file: Path, task: Task, columns: Columns, to_train: bool = True) -> Dataset:
        """Check every row. Raises BadData naming all that are at fault, or, of a file `to_train`
        on, that it has too few."""
        faults, seen = Faults(file), _Seen(len(columns.labels) if task == "classify" else 0)
        for row in _rows(file, task, columns, faults):
            seen.add(row)
        faults.check()
        targets, labels = seen.targets()
        keys = np.frombuffer(seen.keys, dtype=np.uint64)
        found = cls(file, task, columns, keys, labels, targets, seen.digest)
        if to_train:
            _check_enough(found)
        return found

    def rows(self) -> Iterator[Row]:
        """The rows again, in the file's order; the file must not have changed."""
        yield from _rows(self.file, self.task, self.columns, Faults(self.file))


class Rows(NamedTuple):
    """A job's rows: one file and its split, or a file to train on and one to measure on."""

    data: Dataset
    train: Indices
    held_out: Indices  # into `validation` where there is one, else into `data`
    validation: Dataset | None
    notes: tuple[str, ...]


def open_rows(spec: TrainSpec) -> Rows:
    """Check and split the files of `spec`. Raises BadData; BadSpec where the task is unclear."""
    columns = Columns(spec.text_column, spec.text_pair_column, spec.label_columns)
    task = spec.task or _infer(spec.data, columns)
    data = Dataset.read(spec.data, task, columns)
    notes = []
    if count := repeats(data.keys):
        notes.append(
            f"{count} of {len(data.keys)} rows ask what another row asks; they stay on one side of "
            "the split"
        )
    if spec.validation is None:
        strata = data.targets[:, 0].astype(np.int64) if data.targets.shape[1] else None
        train, held_out = split_keys(data.keys, strata, spec.seed)
        train, held_out = with_every_label(train, held_out, data.keys, data.targets)
        return Rows(data, train, held_out, None, tuple(notes))
    validation = _check_against(Dataset.read(spec.validation, task, columns, False), data)
    both = np.isin(data.keys, validation.keys)
    if both.any():
        notes.append(
            f"{int(both.sum())} rows of {data.file.name} ask what {validation.file.name} asks: "
            "they are not trained on"
        )
    train = np.flatnonzero(~both)
    if not len(train):
        raise BadData(f"{data.file.name}: all of its rows are in {validation.file.name}, too")
    return Rows(data, train, np.arange(len(validation.keys)), validation, tuple(notes))


def read_labelled(file: Path, text_column: str, label_column: str) -> list[LabelledText]:
    """All texts and labels of a file at once.

    Raises BadData naming every row at fault, or the label that has too few different texts.
    """
    dataset = Dataset.read(file, "classify", Columns(text_column, None, (label_column,)))
    rows = (row for row in dataset.rows() if isinstance(row, Labelled))
    return [LabelledText(row.text, row.labels[0]) for row in rows]


def read_examples(file: Path) -> list[Example]:
    """All rows `{"messages": […]}` or `{"prompt", "completion"}` of a file at once.

    Raises BadData naming every row at fault."""
    dataset = Dataset.read(file, "generate", Columns())
    return [row for row in dataset.rows() if isinstance(row, Example)]


def dataset_digest(rows: Sequence[LabelledText] | Sequence[Example]) -> str:
    """sha256 over the rows as canonical JSON lines, in order: a CSV and a JSONL of the same rows
    have the same digest."""
    total = hashlib.sha256()
    for row in rows:
        total.update(_line(row._asdict() if isinstance(row, LabelledText) else row.fields))
    return f"sha256:{total.hexdigest()}"


def _line(fields: dict[str, Any]) -> bytes:
    line = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return line.encode() + b"\n"


class _Seen:
    """What the first pass keeps of the rows."""

    def __init__(self, columns: int) -> None:
        self.keys = array("Q")
        self._total = hashlib.sha256()
        self._places: list[dict[str, int]] = [{} for _ in range(columns)]
        self._labels = [array("i") for _ in range(columns)]
        self._tags: set[str] = set()

    def add(self, row: Row) -> None:
        self.keys.append(key_of(row.question))
        self._total.update(_line(row.fields))
        if isinstance(row, Tagged):
            self._tags.update(row.labels)
            return
        for label, places, found in zip(row.labels, self._places, self._labels, strict=True):
            found.append(places.setdefault(label, len(places)))

    @property
    def digest(self) -> str:
        return f"sha256:{self._total.hexdigest()}"

    def targets(self) -> tuple[NDArray[np.int32], tuple[tuple[str, ...], ...]]:
        """Labels are numbered by name, not by when they came."""
        if self._tags:
            return np.empty((len(self.keys), 0), np.int32), (tuple(sorted(self._tags)),)
        columns, labels = [], []
        for places, found in zip(self._places, self._labels, strict=True):
            names = sorted(places)
            number = {name: index for index, name in enumerate(names)}
            renumbered = np.array([number[name] for name in places], np.int32)
            columns.append(renumbered[np.frombuffer(found, np.int32)] if names else found)
            labels.append(tuple(names))
        whole = np.stack(columns, axis=1) if columns else np.empty((len(self.keys), 0), np.int32)
        return whole, tuple(labels)


def _rows(file: Path, task: Task, columns: Columns, faults: Faults) -> Iterator[Row]:
    table = kind_of(file) in ("csv", "parquet")
    needed: tuple[str, ...] = () if task == "generate" else columns.needed
    if task == "generate" and kind_of(file) == "csv":
        needed = ("prompt", "completion")
    yield from rows_of(stream(file, faults, needed), task, columns, faults, table)


def _infer(file: Path, columns: Columns) -> Task:
    fields = first_record(file).fields
    task = task_of(fields, columns)
    if task is None:
        raise BadSpec(
            f"data: {file.name} has the columns {named(fields)}: rows are messages, or prompt and "
            f"completion, or {columns.text} and {columns.labels[0]}; name yours with text_column "
            "and label_column"
        )
    return task


def _check_enough(data: Dataset) -> None:
    name = data.file.name
    if data.task != "classify":
        different = len(np.unique(data.keys))
        what = "prompts" if data.task == "generate" else "texts"
        if different < MIN_PROMPTS:
            raise BadData(f"{name}: {different} different {what}, at least {MIN_PROMPTS} needed")
    columns = data.columns.labels if data.labels else ()
    for number, (column, labels) in enumerate(zip(columns, data.labels, strict=True)):
        if len(labels) < 2:
            raise BadData(f"{name}: column {column!r} has one label only; a head needs two")
        if len(labels) > MAX_LABELS:
            raise BadData(
                f"{name}: column {column!r} has {len(labels)} different labels, "
                f"a head has at most {MAX_LABELS}"
            )
        if data.task == "classify":
            _check_texts(data, number)


def _check_texts(data: Dataset, column: int) -> None:
    # A text counts for the label it has first, as the split counts it.
    _, first = np.unique(data.keys, return_index=True)
    counts = np.bincount(data.targets[first, column], minlength=len(data.labels[column]))
    for label, count in zip(data.labels[column], counts, strict=True):
        if count < 2:
            raise BadData(
                f"{data.file.name}: label {label!r} has {count} different text(s); "
                "each label needs two, one of them to be held out"
            )


def _check_against(validation: Dataset, data: Dataset) -> Dataset:
    """The same with its labels numbered as those of `data`."""
    columns = []
    for number, (known, labels) in enumerate(zip(data.labels, validation.labels, strict=True)):
        if strangers := sorted(set(labels) - set(known)):
            raise BadData(
                f"{validation.file.name}: label {strangers[0]!r} is nowhere in {data.file.name}"
            )
        if validation.task == "classify":
            numbers = np.array([known.index(label) for label in labels], np.int32)
            columns.append(numbers[validation.targets[:, number]])
    targets = np.stack(columns, axis=1) if columns else validation.targets
    return Dataset(
        validation.file, validation.task, validation.columns, validation.keys, data.labels,
        targets, validation.digest,
    )  # fmt: skip
