"""What a training job is asked to do: one frozen, strictly checked object, stored in the job's row.

Refuses to know torch, the data's contents and who asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rootstock_trainer.errors import BadSpec


class HeadSettings(BaseModel):
    """Hyperparameters of method `head`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    c: float = Field(default=1.0, gt=0, allow_inf_nan=False)  # scikit-learn's C: 1 / L2 strength


class LoraSettings(BaseModel):
    """Hyperparameters of method `lora`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rank: int = Field(default=8, ge=1, le=256)
    alpha: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    n_epochs: int = Field(default=3, ge=1, le=1000)
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)
    batch_size: int = Field(default=8, ge=1, le=1024)


SETTINGS: dict[str, type[HeadSettings] | type[LoraSettings]] = {
    "head": HeadSettings,
    "lora": LoraSettings,
}


class TrainSpec(BaseModel):
    """One job. `base` is a registered name, `base_path` the folder that holds it.

    `text_column` and `label_column` are read by method `head` only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    method: Literal["head", "lora"]
    base: str
    base_path: Annotated[Path, Field(strict=False)]
    data: Annotated[Path, Field(strict=False)]
    name: str
    text_column: str = "text"
    label_column: str = "label"
    promote: str | None = None
    seed: int = Field(default=0, ge=0, lt=2**32)
    hyperparameters: dict[str, int | float] = {}

    @model_validator(mode="after")
    def _known_hyperparameters(self) -> TrainSpec:
        settings = SETTINGS[self.method]
        unknown = sorted(self.hyperparameters.keys() - settings.model_fields.keys())
        if unknown:
            known = ", ".join(settings.model_fields)
            raise ValueError(
                f"hyperparameters.{unknown[0]}: method {self.method} has no such hyperparameter "
                f"(known: {known})"
            )
        try:
            settings.model_validate(self.hyperparameters)
        except ValidationError as error:
            raise ValueError(f"hyperparameters.{_first_words(error)}") from error
        return self

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
