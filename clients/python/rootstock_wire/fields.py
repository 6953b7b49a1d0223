"""The strict and the tolerant model every message builds on, and the field types they share.

The bounds of single fields live here and in the request models, once for every door. Refuses to
know which models are served and what a token is.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_TEXT_CHARS = 500_000
MAX_TEXTS = 256
MAX_PROMPT_TOKENS = 131_072
MAX_ADAPTERS = 16
MAX_FIELDS = 64


class Ask(BaseModel):
    """A request: unknown fields, loose types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, data: Any) -> Any:
        # Each unknown one would become an error of its own, and all of them be written out.
        if isinstance(data, dict) and len(data) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", "there are more fields than any one takes")
        return data


class Answer(BaseModel):
    """A response: a client meeting a newer server ignores what it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def only(*values: object) -> BeforeValidator:
    """A field of the public API that we know but do not implement: only neutral values pass."""

    def check(value: object) -> object:
        if not any(value == allowed and type(value) is type(allowed) for allowed in values):
            raise PydanticCustomError("unsupported", "is not supported yet; leave it out")
        return value

    return BeforeValidator(check)


def at_most(entries: int) -> BeforeValidator:
    """A table's size, before each of its entries is looked at."""

    def check(value: object) -> object:
        if isinstance(value, dict) and len(value) > entries:
            raise PydanticCustomError(
                "too_long", "should have at most {most} entries", {"most": entries}
            )
        return value

    return BeforeValidator(check)


def _form(value: Any) -> str | None:
    """Which of the four forms of a prompt this is; None for none of them."""
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list) or not value:
        return None
    if isinstance(value[0], str):
        return "texts"
    if isinstance(value[0], int):
        return "ids"
    return "id_lists" if isinstance(value[0], list) else None


Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
TokenId = Annotated[int, Field(ge=0)]
TokenIds = Annotated[
    list[TokenId], Field(min_length=1, max_length=MAX_PROMPT_TOKENS, fail_fast=True)
]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]
User = Annotated[str, Field(max_length=256)]


class AdapterUse(Ask):
    """A version that acts on a request, by its name; `scale` multiplies what it does."""

    model: ModelName
    scale: float = 1.0


Adapters = Annotated[list[AdapterUse], Field(min_length=1, max_length=MAX_ADAPTERS)]

# One text, several texts, the token ids of one text, or of several.
Prompt = Annotated[
    Annotated[Text, Tag("text")]
    | Annotated[Texts, Tag("texts")]
    | Annotated[TokenIds, Tag("ids")]
    | Annotated[list[TokenIds], Field(max_length=MAX_TEXTS), Tag("id_lists")],
    Discriminator(
        _form,
        custom_error_type="prompt_type",
        custom_error_message="must be a string, a list of strings, a list of token ids, "
        "or a list of lists of token ids, and not empty",
    ),
]


def _text_form(value: Any) -> str:
    return "texts" if isinstance(value, list) else "text"


TextOrTexts = Annotated[
    Annotated[Text, Tag("text")] | Annotated[Texts, Tag("texts")], Discriminator(_text_form)
]


def as_list(prompt: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    """The separate prompts inside a `Prompt`, in order."""
    if isinstance(prompt, str):
        return [prompt]
    if prompt and isinstance(prompt[0], int):
        return [[int(x) for x in prompt if isinstance(x, int)]]
    return [x for x in prompt if not isinstance(x, int)]
