"""Training examples: checked all at once, digested, and split into training and held-out rows.

Refuses to know tokenizers, models and methods.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rootstock_trainer.errors import BadData
from rootstock_trainer.records import Faults, Record, read_records

HELD_OUT_SHARE = 0.2
MIN_PROMPTS = 5
MAX_LABELS = 1024
MAX_LABEL_CHARS = 128


class LabelledText(NamedTuple):
    text: str
    label: str


class Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)]


class Chat(BaseModel):
    """A conversation as OpenAI's fine-tuning files write it; every assistant turn is an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    messages: Annotated[list[Message], Field(min_length=2)]

    @model_validator(mode="after")
    def _ends_with_an_answer(self) -> Chat:
        if self.messages[-1].role != "assistant":
            raise ValueError("the last message must be the assistant's")
        if self.messages[0].role == "assistant":
            raise ValueError("the first message cannot be the assistant's")
        return self

    @property
    def question(self) -> str:
        return json.dumps([message.model_dump() for message in self.messages[:-1]])


class Completion(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1)]
    completion: Annotated[str, Field(min_length=1)]

    @property
    def question(self) -> str:
        return self.prompt


class Example(NamedTuple):
    """One row for a decoder. `line` is kept so that a later check can still name it."""

    line: int
    row: Chat | Completion


class Split(NamedTuple):
    """Indices of rows, both in the file's order."""

    train: list[int]
    held_out: list[int]


def read_labelled(file: Path, text_column: str, label_column: str) -> list[LabelledText]:
    """The texts and labels of a CSV or JSONL file.

    Raises BadData naming every row at fault, or the label that has too few different texts.
    """
    records, faults = read_records(file, (text_column, label_column))
    rows = []
    for record in records:
        text = _text(record, text_column, faults)
        label = (_text(record, label_column, faults) or "").strip()
        if len(label) > MAX_LABEL_CHARS:
            faults.add(record.line, f"{label_column} has over {MAX_LABEL_CHARS} characters")
        elif text and label:
            rows.append(LabelledText(text, label))
    faults.check()
    _check_labels(file, rows, label_column)
    return rows


def read_examples(file: Path) -> list[Example]:
    """Rows `{"messages": […]}` or `{"prompt", "completion"}` of a JSONL file, or a CSV with these
    two columns. Raises BadData naming every row at fault."""
    records, faults = read_records(file, ("prompt", "completion"))
    examples = []
    for record in records:
        fields = record.fields
        if file.suffix.lower() == ".csv":  # a table may have columns that are not for us
            fields = {name: fields[name] for name in ("prompt", "completion")}
        try:
            examples.append(Example(record.line, _example(fields)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            message = first["msg"].removeprefix("Value error, ")
            faults.add(record.line, f"{field}: {message}" if field else message)
        except BadData as error:
            faults.add(record.line, error.message)
    faults.check()
    different = len({example.row.question for example in examples})
    if different < MIN_PROMPTS:
        raise BadData(f"{file.name}: {different} different prompts, at least {MIN_PROMPTS} needed")
    return examples


def dataset_digest(rows: Sequence[LabelledText] | Sequence[Example]) -> str:
    """sha256 over the rows as canonical JSON lines, in order: a CSV and a JSONL of the same rows
    have the same digest."""
    total = hashlib.sha256()
    for row in rows:
        fields = row._asdict() if isinstance(row, LabelledText) else row.row.model_dump()
        line = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        total.update(line.encode() + b"\n")
    return f"sha256:{total.hexdigest()}"


def split(texts: Sequence[str], labels: Sequence[str] | None, seed: int) -> Split:
    """Hold out a fifth of the different texts, of each label's where `labels` are given.

    Rows with the same text stay on the same side, so that nothing held out was trained on.
    """
    stratum_of: dict[str, str] = {}
    for text, label in zip(texts, labels or [""] * len(texts), strict=True):
        stratum_of.setdefault(text, label)
    strata: defaultdict[str, list[str]] = defaultdict(list)
    for text in sorted(stratum_of):
        strata[stratum_of[text]].append(text)
    chooser = random.Random(seed)
    held_out: set[str] = set()
    for stratum in sorted(strata):
        members = strata[stratum]
        held_out.update(chooser.sample(members, max(1, round(HELD_OUT_SHARE * len(members)))))
    train = [i for i, text in enumerate(texts) if text not in held_out]
    return Split(train, [i for i, text in enumerate(texts) if text in held_out])


def _text(record: Record, column: str, faults: Faults) -> str | None:
    value = record.fields.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        faults.add(record.line, f"{column} is missing")
    elif not isinstance(value, str):
        faults.add(record.line, f"{column} must be text")
    elif not value.strip():
        faults.add(record.line, f"{column} is empty")
    else:
        return value
    return None


def _check_labels(file: Path, rows: Sequence[LabelledText], column: str) -> None:
    # A text counts for the label it has first, as the split counts it.
    first = {row.text: row.label for row in reversed(rows)}
    counts = Counter(first.values())
    labels = {row.label for row in rows}
    if len(labels) < 2:
        raise BadData(f"{file.name}: column {column!r} has one label only; a head needs two")
    if len(labels) > MAX_LABELS:
        raise BadData(
            f"{file.name}: column {column!r} has {len(labels)} different labels, "
            f"a head has at most {MAX_LABELS}"
        )
    for label in sorted(labels):
        if counts[label] < 2:
            raise BadData(
                f"{file.name}: label {label!r} has {counts[label]} different text(s); "
                "each label needs two, one of them to be held out"
            )


def _example(fields: dict[str, Any]) -> Chat | Completion:
    if "messages" in fields:
        return Chat.model_validate(fields)
    if "prompt" in fields or "completion" in fields:
        return Completion.model_validate(fields)
    raise BadData("neither messages nor prompt and completion")
