"""What a training job is asked to do: one frozen, strictly checked object, stored in the job's row.

The methods' settings are the wire's. Refuses to know torch, the data's contents and who asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from rootstock_registry.errors import InvalidName
from rootstock_registry.gates import parse_for_training
from rootstock_wire.methods import (
    SETTINGS,
    HeadSettings,
    LoraSettings,
    Settings,
    canonical,
    parse_settings,
)

from rootstock_trainer.errors import BadSpec

__all__ = ["SETTINGS", "HeadSettings", "LoraSettings", "Task", "TrainSpec"]

# What a job's rows are: texts with answers, texts with labels, or words with a label each.
Task = Literal["generate", "classify", "token-classify"]


class TrainSpec(BaseModel):
    """One job. `base` is a registered name, `base_path` the folder that holds it.

    `validation` is a file of rows to measure on; without it a share of `data` is held out.
    `general` is a file of texts to measure forgetting on, instead of the base's own. With `bars`
    the figures also say what the base does untrained, for a comparison. `task`
    is what the rows are, and is read off their columns where it is None. The columns are those of
    labelled rows; `text_pair_column` is the second sentence of a pair. `require` are the gates at
    which the alias `promote` moves, as in `accuracy>=0.9`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: str
    base: str
    base_path: Annotated[Path, Field(strict=False)]
    data: Annotated[Path, Field(strict=False)]
    name: str
    validation: Annotated[Path | None, Field(strict=False)] = None
    general: Annotated[Path | None, Field(strict=False)] = None
    task: Task | None = None
    text_column: str = "text"
    text_pair_column: str | None = None
    label_column: str = "label"
    promote: str | None = None
    require: list[str] = []
    bars: bool = False
    seed: int = Field(default=0, ge=0, lt=2**32)
    hyperparameters: dict[str, Any] = {}

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        if canonical(method) not in SETTINGS:
            raise ValueError(
                f"there is no method {method[:80]!r} (known: {', '.join(sorted(SETTINGS))})"
            )
        return canonical(method)

    @model_validator(mode="after")
    def _known_hyperparameters(self) -> Self:
        parse_settings(self.method, self.hyperparameters)
        return self

    @model_validator(mode="after")
    def _known_gates(self) -> Self:
        try:
            parse_for_training(self.require)
        except InvalidName as error:
            raise ValueError(error.message) from None
        if self.require and self.promote is None:
            raise ValueError("require: it needs promote, the alias that moves where its gates hold")
        return self

    @property
    def settings(self) -> Settings:
        """The hyperparameters with every default; of the method's own class."""
        return parse_settings(self.method, self.hyperparameters)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The labels to learn: a head may have several columns, anything else has one."""
        settings = self.settings
        several = settings.label_columns if isinstance(settings, HeadSettings) else None
        return tuple(several) if several else (self.label_column,)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> TrainSpec:
        """Check a job row's JSON or a command's arguments; raises BadSpec naming the field."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise BadSpec(_first_words(error)) from error


def _first_words(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}" if field else message
