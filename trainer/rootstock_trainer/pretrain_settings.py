"""What a pre-training run is told and what it reports: settings, losses, errors, special tokens.

Knows no torch and does nothing.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
ROLES = ("system", "user", "assistant")
SPECIAL_TOKENS = (BOS, EOS, PAD, *(f"<|{role}|>" for role in ROLES))
# 256 bytes and the special tokens; a smaller vocabulary could not spell every script.
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


class PretrainError(ValueError):
    """Pre-training cannot start or go on; the message names what is wrong and what to change."""


class PretrainSettings(BaseModel):
    """Everything that decides the weights, besides the data and the machine's arithmetic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int = Field(default=4_000_000, ge=1_000, description="the most parameters")
    vocabulary: int = Field(default=2048, ge=SMALLEST_VOCABULARY, description="tokenizer entries")
    context: int = Field(default=512, ge=16, description="tokens per training row and at most")
    batch_tokens: int = Field(default=4096, ge=16, description="tokens per optimizer step")
    packed_share: float = Field(
        default=0.25, ge=0, le=1, description="share of documents packed to the full context"
    )
    steps: int | None = Field(default=None, ge=1, description="optimizer steps; none: one pass")
    minutes: float | None = Field(default=None, gt=0, description="wall clock, turned into steps")
    seed: int = Field(default=0, ge=0, description="decides split, order and first weights")
    learning_rate: float = Field(default=3e-3, gt=0, description="peak, after the warmup")
    weight_decay: float = Field(default=0.1, ge=0, description="AdamW's, on matrices only")
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="arithmetic of the model; the optimizer is always float32"
    )
    data_command: str = Field(default="", description="how the data was made, for the card")


class Loss(BaseModel):
    """A held-out loss: nats per token, and bits per UTF-8 byte of the documents' text."""

    model_config = ConfigDict(frozen=True)

    nats_per_token: float
    bits_per_byte: float


class CurvePoint(BaseModel):
    """The training loss in nats per token, the mean over the steps since the point before."""

    model_config = ConfigDict(frozen=True)

    step: int
    tokens: int
    seconds: float
    loss: float


class PretrainReport(BaseModel):
    """What a run did and how good the base is; written as `training.json` beside the weights."""

    model_config = ConfigDict(frozen=True)

    settings: PretrainSettings
    data: dict[str, str]
    documents: int
    held_out_documents: int
    held_out_tokens: int
    parameters: int
    layers: int
    width: int
    steps: int
    tokens: int
    threads: int
    wall_seconds: float
    cpu_seconds: float
    model: Loss
    trigram: Loss
    unigram: Loss
    curve: list[CurvePoint]
