"""What an answer must be, as its request says: a format, one of vLLM's forms, tool calls.

Names and meanings are OpenAI's and vLLM's. Refuses to know how an answer is made to fit.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rootstock_wire.fields import Answer, Ask, Text, only

MAX_TOOLS = 64
MAX_CHOICES = 256
MAX_CHOICE_CHARS = 1024
MAX_REGEX_CHARS = 4096
MAX_DESCRIPTION_CHARS = 8192
MAX_DEPTH = 128


def too_deep(value: object) -> bool:
    """Whether tables and lists lie in one another more than MAX_DEPTH deep: what reads them next,
    by recursion, could not come to their end."""
    level: list[Any] = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH + 1):
        inside = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for values in inside for each in values if isinstance(each, (dict, list))]
        if not level:
            return False
    return True


def _flat(schema: dict[str, Any]) -> dict[str, Any]:
    if too_deep(schema):
        raise PydanticCustomError("too_deep", "is nested over {most} deep", {"most": MAX_DEPTH})
    return schema


# A JSON schema; its size is bounded where it becomes a grammar.
Schema = Annotated[dict[str, Any], AfterValidator(_flat)]
SchemaOrText = Annotated[
    Annotated[Text, Tag("text")] | Annotated[Schema, Tag("as_object")],
    Discriminator(lambda x: "text" if isinstance(x, str) else "as_object"),
]
ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]
Description = Annotated[str, Field(max_length=MAX_DESCRIPTION_CHARS)]
Choice = Annotated[str, Field(min_length=1, max_length=MAX_CHOICE_CHARS)]


class JsonSchema(Ask):
    name: ToolName
    schema_: Annotated[Schema, Field(alias="schema")]
    description: Description | None = None
    strict: bool | None = None  # either way, the answer fits the schema


class ResponseFormat(Ask):
    """OpenAI's field: text, any JSON object, or JSON of a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = Field(default=None, validate_default=True)

    @field_validator("json_schema", mode="after")
    @classmethod
    def _with_its_type(cls, schema: JsonSchema | None, info: ValidationInfo) -> JsonSchema | None:
        if (schema is None) == (info.data.get("type") == "json_schema"):
            raise PydanticCustomError("its_type", "goes with the type json_schema only")
        return schema


class StructuredOutputs(Ask):
    """vLLM's field: the answer must be of exactly one of these forms."""

    # Named apart from pydantic's own `json`.
    json_schema: SchemaOrText | None = Field(default=None, alias="json")
    regex: Annotated[str, Field(min_length=1, max_length=MAX_REGEX_CHARS)] | None = None
    choice: Annotated[list[Choice], Field(min_length=1, max_length=MAX_CHOICES)] | None = None
    json_object: Annotated[bool | None, only(None, True)] = None

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if len(self._given) != 1:
            raise PydanticCustomError(
                "one_form", "takes exactly one of json, regex, choice and json_object"
            )
        return self

    @property
    def form(self) -> str:
        """The one field that is given, as requests name it."""
        return self._given[0]

    @property
    def _given(self) -> list[str]:
        forms = {
            "json": self.json_schema,
            "regex": self.regex,
            "choice": self.choice,
            "json_object": self.json_object,
        }
        return [name for name, value in forms.items() if value is not None]


class Function(Ask):
    name: ToolName
    description: Description | None = None
    parameters: Schema | None = None  # None: no arguments
    strict: bool | None = None


class Tool(Ask):
    type: Literal["function"]
    function: Function


class FunctionName(Ask):
    name: ToolName


class NamedTool(Ask):
    type: Literal["function"]
    function: FunctionName


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("text")]
    | Annotated[NamedTool, Tag("named")],
    Discriminator(lambda x: "text" if isinstance(x, str) else "named"),
]


class FunctionCall(Ask):
    name: ToolName
    arguments: Text


class ToolCall(Ask):
    id: Annotated[str, Field(min_length=1, max_length=128)]
    type: Literal["function"] = "function"
    function: FunctionCall


class CalledFunction(Answer):
    """`arguments` is JSON, as text."""

    name: str
    arguments: str


class CalledTool(Answer):
    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class FunctionDelta(Answer):
    name: str | None = Field(default=None, exclude_if=lambda x: x is None)
    arguments: str = ""


class ToolDelta(Answer):
    """A piece of a call; its first one has `id` and the function's name."""

    index: int
    id: str | None = Field(default=None, exclude_if=lambda x: x is None)
    type: Literal["function"] | None = Field(default=None, exclude_if=lambda x: x is None)
    function: FunctionDelta
