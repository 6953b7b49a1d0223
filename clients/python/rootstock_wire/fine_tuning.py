"""OpenAI's files and fine-tuning jobs: what is asked, and the objects that answer.

The names and the shapes are OpenAI's; `priority` and the status `paused` are ours. Refuses to know
what a method does with its hyperparameters, and how a job is run.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from rootstock_wire.fields import Answer, Ask, ModelName, at_most, only
from rootstock_wire.methods import Method, Settings
from rootstock_wire.pages import Listed

MAX_METADATA = 16
MAX_SEED = 2**32 - 1
MAX_PRIORITY = 100
MAX_PAGE = 100
MAX_RECORD_CHARS = 4 << 20  # of one row of a file: far more than any context, and quickly read

FileId = Annotated[str, Field(pattern=r"^file-[0-9a-zA-Z]{1,56}$")]
Key = Annotated[str, Field(min_length=1, max_length=64)]
Value = Annotated[str, Field(max_length=512)]
Metadata = Annotated[dict[Key, Value], at_most(MAX_METADATA)]
Status = Literal[
    "validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"
]


class LegacyHyperparameters(Settings):
    """OpenAI's older place for three of them; `method` has all."""

    n_epochs: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] | None = None
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | None = None

    @property
    def given(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class CreateJobRequest(Ask):
    """`suffix` is the adapter's name; `metadata.promote` an alias to move to the new version, where
    the gates of `metadata.require` hold (`accuracy>=0.9, forgetting<=0.02`)."""

    model: ModelName
    training_file: FileId
    validation_file: FileId | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    method: Method | None = None
    hyperparameters: LegacyHyperparameters | None = None
    integrations: Annotated[None, only(None, [])] = None
    metadata: Metadata | None = None
    priority: Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0

    @model_validator(mode="after")
    def _one_place_for_hyperparameters(self) -> CreateJobRequest:
        both = self.method is not None and self.method.chosen and self.hyperparameters is not None
        if both and self.hyperparameters is not None and self.hyperparameters.given:
            raise ValueError("give hyperparameters inside method, or outside, not in both places")
        return self


class FileObject(Listed):
    bytes: int
    created_at: int
    filename: str
    object: Literal["file"] = "file"
    purpose: str
    status: Literal["processed"] = "processed"
    expires_at: int | None = None
    status_details: str | None = None


class FileDeleted(Answer):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class JobError(Answer):
    code: str
    message: str
    param: str | None = None


class Hyperparameters(Answer):
    n_epochs: int | None = None
    batch_size: int | None = None
    learning_rate_multiplier: float | None = None


class FineTuningJob(Listed):
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None = None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: Status
    hyperparameters: Hyperparameters
    method: dict[str, Any]
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None = None
    seed: int
    error: JobError | None
    integrations: list[Any] | None = None
    metadata: dict[str, str] | None
    suffix: str | None = None
    priority: int = 0


class FineTuningJobEvent(Listed):
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


class CheckpointMetrics(Answer):
    step: int
    train_loss: float | None = None
    train_mean_token_accuracy: float | None = None
    valid_loss: float | None = None
    valid_mean_token_accuracy: float | None = None
    full_valid_loss: float | None = None
    full_valid_mean_token_accuracy: float | None = None


class FineTuningJobCheckpoint(Listed):
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: CheckpointMetrics
