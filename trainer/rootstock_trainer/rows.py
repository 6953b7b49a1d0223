"""What one row of a training file can be, and how a record becomes one: each fault with its line.

Refuses to know files, tokenizers, models and methods.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rootstock_wire.openai import MAX_MESSAGES

from rootstock_trainer.errors import BadData
from rootstock_trainer.records import Faults, Record, is_text
from rootstock_trainer.spec import Task

MAX_LABEL_CHARS = 128
MAX_FIELD_CHARS = 128
# Callers write it, too: a served head reads a pair as this one text.
PAIR_SEPARATOR = " ||| "


class Columns(NamedTuple):
    """Where labelled rows have their text (and the second of a pair) and their labels."""

    text: str = "text"
    pair: str | None = None
    labels: tuple[str, ...] = ("label",)

    @property
    def needed(self) -> tuple[str, ...]:
        return (self.text, *([self.pair] if self.pair else []), *self.labels)


class Message(BaseModel):
    """OpenAI's: an assistant's message of weight 0 is context, and not learnt."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(min_length=1)]
    weight: Annotated[int | None, Field(ge=0, le=1)] = None

    @property
    def said(self) -> dict[str, str]:
        """What a chat template reads."""
        return {"role": self.role, "content": self.content}

    @property
    def is_answer(self) -> bool:
        return self.role == "assistant" and self.weight != 0


class Chat(BaseModel):
    """A conversation as OpenAI's fine-tuning files write it; every assistant turn is an answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    messages: Annotated[list[Message], Field(min_length=2, max_length=MAX_MESSAGES)]

    @model_validator(mode="after")
    def _ends_with_an_answer(self) -> Chat:
        if self.messages[-1].role != "assistant":
            raise ValueError("the last message must be the assistant's")
        if self.messages[0].role == "assistant":
            raise ValueError("the first message cannot be the assistant's")
        if not any(message.is_answer for message in self.messages):
            raise ValueError("every answer has weight 0: there is nothing to learn")
        return self

    @property
    def question(self) -> str:
        return json.dumps([message.said for message in self.messages[:-1]])

    @property
    def answer(self) -> str:
        return self.messages[-1].content


class Completion(BaseModel):
    """A prompt and its continuation; for a translator, a text, its translation and both languages,
    named as in a request."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    prompt: Annotated[str, Field(min_length=1)]
    completion: Annotated[str, Field(min_length=1)]
    source_lang: str | None = None
    target_lang: str | None = None

    @property
    def question(self) -> str:
        return self.prompt

    @property
    def answer(self) -> str:
        return self.completion


class Example(NamedTuple):
    """A text and its answer. `line` is kept so that a later check can still name it."""

    line: int
    row: Chat | Completion

    @property
    def question(self) -> str:
        return self.row.question

    @property
    def labels(self) -> tuple[str, ...]:
        return ()

    @property
    def fields(self) -> dict[str, Any]:
        """What the dataset's digest covers."""
        return self.row.model_dump(exclude_none=True)


class Labelled(NamedTuple):
    """A text (or a pair, as one text) with a label from each label column."""

    line: int
    text: str
    labels: tuple[str, ...]

    @property
    def question(self) -> str:
        return self.text

    @property
    def fields(self) -> dict[str, Any]:
        label = self.labels[0] if len(self.labels) == 1 else self.labels
        return {"text": self.text, "label": label}


class Tagged(NamedTuple):
    """Words, each with a label of its own."""

    line: int
    words: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def question(self) -> str:
        return " ".join(self.words)

    @property
    def fields(self) -> dict[str, Any]:
        return {"words": self.words, "labels": self.labels}


Row = Example | Labelled | Tagged


def rows_of(
    records: Iterable[Record], task: Task, columns: Columns, faults: Faults, table: bool
) -> Iterator[Row]:
    """The rows of a task; what cannot be one goes to `faults`.

    A `table` may have columns that are not for us; a JSON record with more than its row is wrong.
    """
    readers: dict[Task, Callable[[Record], Row]] = {
        "generate": lambda record: _example(record, table),
        "classify": lambda record: _labelled(record, columns),
        "token-classify": lambda record: _tagged(record, columns),
    }
    for record in records:
        try:
            yield readers[task](record)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])[:MAX_FIELD_CHARS]
            message = first["msg"].removeprefix("Value error, ")
            faults.add(record.line, f"{field}: {message}" if field else message)
        except BadData as error:
            faults.add(record.line, error.message)


def task_of(fields: dict[str, Any], columns: Columns) -> Task | None:
    """What rows with these fields are for; None where they are for nothing."""
    if "messages" in fields or ("prompt" in fields and "completion" in fields):
        return "generate"
    if isinstance(fields.get(columns.text), list):
        return "token-classify"
    return "classify" if columns.text in fields else None


def _example(record: Record, table: bool) -> Example:
    fields = record.fields
    ours = ("messages",)
    if "messages" not in fields:
        ours = ("prompt", "completion", "source_lang", "target_lang")
    if table:
        fields = {name: fields[name] for name in ours if name in fields}
    if "messages" in fields:
        return Example(record.line, Chat.model_validate(_without_nulls(fields)))
    if "prompt" in fields or "completion" in fields:
        return Example(record.line, Completion.model_validate(fields))
    raise BadData("neither messages nor prompt and completion")


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    """A Parquet struct has every field that any of its rows has."""
    turns = fields["messages"]
    if not isinstance(turns, list):
        return fields
    kept = [
        {n: v for n, v in turn.items() if v is not None} if isinstance(turn, dict) else turn
        for turn in turns
    ]
    return fields | {"messages": kept}


def _labelled(record: Record, columns: Columns) -> Labelled:
    problems: list[str] = []
    text = _text(record, columns.text, problems)
    pair = _text(record, columns.pair, problems) if columns.pair else None
    labels = [_label(record, column, problems) for column in columns.labels]
    if problems:
        raise BadData("; ".join(problems))
    whole = text if pair is None else f"{text}{PAIR_SEPARATOR}{pair}"
    return Labelled(record.line, whole, tuple(labels))


def _tagged(record: Record, columns: Columns) -> Tagged:
    words, labels = record.fields.get(columns.text), record.fields.get(columns.labels[0])
    for name, value in ((columns.text, words), (columns.labels[0], labels)):
        texts = isinstance(value, list) and all(is_text(v) and v.strip() for v in value)
        if not texts or not value:
            raise BadData(f"{name} must be a list of words, none of them empty")
    assert isinstance(words, list) and isinstance(labels, list)
    if len(words) != len(labels):
        raise BadData(f"{len(words)} words have {len(labels)} labels: each needs one")
    if too_long := next((label for label in labels if len(label) > MAX_LABEL_CHARS), None):
        raise BadData(f"label {too_long[:20]!r}… has over {MAX_LABEL_CHARS} characters")
    return Tagged(record.line, tuple(words), tuple(label.strip() for label in labels))


def _label(record: Record, column: str, problems: list[str]) -> str:
    label = _text(record, column, problems).strip()
    if len(label) > MAX_LABEL_CHARS:
        problems.append(f"{column} has over {MAX_LABEL_CHARS} characters")
    return label


def _text(record: Record, column: str, problems: list[str]) -> str:
    value = record.fields.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None:
        problems.append(f"{column} is missing")
    elif not is_text(value):
        problems.append(f"{column} must be text")
    elif not value.strip():
        problems.append(f"{column} is empty")
    else:
        return value
    return ""
