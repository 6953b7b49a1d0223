"""Rootstock's own messages: classify one input with many heads, and ask a task by its name.

Refuses to know which version answers; the answer names it by digest.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from rootstock_wire.fields import Adapters, Answer, Ask, ModelName, TextOrTexts, User
from rootstock_wire.openai import ChatBody, CompletionBody, Usage

MAX_HEADS = 16


class ClassifyBody(Ask):
    input: TextOrTexts
    user: User | None = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class ClassifyRequest(ClassifyBody):
    models: Annotated[list[ModelName], Field(min_length=1, max_length=MAX_HEADS)]
    adapters: Adapters | None = None


class HeadResult(Answer):
    """One head's verdict: `score` is the probability of `label`, the most likely one."""

    model: str
    digest: str
    label: str
    score: float
    probs: dict[str, float]


class LabelledToken(Answer):
    """One token that is not `O`, as Hugging Face's token-classification pipeline writes it.

    `index` counts the text's tokens, special ones too; `start` and `end` its characters.
    """

    entity: str
    score: float
    index: int
    word: str
    start: int
    end: int


class TokensResult(Answer):
    """The verdict of a head that labels tokens."""

    model: str
    digest: str
    tokens: list[LabelledToken]


class ClassifiedText(Answer):
    index: int
    results: list[HeadResult | TokensResult]


class Classification(Answer):
    object: Literal["list"] = "list"
    data: list[ClassifiedText]
    system_fingerprint: str
    usage: Usage


def _dialect(body: Any) -> str | None:
    """The field that says how a task is asked; None where there is none or more than one."""
    if not isinstance(body, dict):
        return None
    named = [field for field in ("messages", "prompt", "input") if field in body]
    return named[0] if len(named) == 1 else None


TaskBody = Annotated[
    Annotated[ChatBody, Tag("messages")]
    | Annotated[CompletionBody, Tag("prompt")]
    | Annotated[ClassifyBody, Tag("input")],
    Discriminator(
        _dialect,
        custom_error_type="dialect",
        custom_error_message="give exactly one of messages (chat), prompt (completion) "
        "or input (classify), and no model: the task's route chooses it",
    ),
]
