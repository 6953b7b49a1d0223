"""A prompt part: what is said around a caller's text. Words only, so it is whole in its config.

Refuses to know chat templates and tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.spec import PartSpec, Shapes

PLACE = "{input}"
# A part has a safetensors blob; this one has no tensors in it.
NO_TENSORS = (2).to_bytes(8, "little") + b"{}"

Words = Annotated[str, Field(min_length=1, max_length=100_000)]
Message = dict[str, Any]  # role, content, and what else a chat template reads


class Example(BaseModel):
    """An input and the answer it should have had."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: Words
    output: Words


class PromptSpec(PartSpec):
    """`template` with the caller's text at `{input}`, after `system` and `examples`.

    Substitution is plain: every `{input}` becomes the text, every other brace stays as it is.
    """

    kind: ClassVar[str] = "prompt"
    changes_pass: ClassVar[bool] = False
    before_pass: ClassVar[bool] = True

    template: Words = PLACE
    system: Words | None = None
    examples: tuple[Example, ...] = Field(default=(), max_length=64)

    @field_validator("template")
    @classmethod
    def _has_place(cls, template: str) -> str:
        if PLACE not in template:
            raise ValueError(f"must contain {PLACE}, where the caller's text goes")
        return template

    @model_validator(mode="after")
    def _says_something(self) -> PromptSpec:
        if self.template == PLACE and not self.system and not self.examples:
            raise ValueError("give a template, a system text or examples: this prompt is empty")
        return self

    def tensor_shapes(self, base: BaseCard) -> Shapes:
        return {}

    def text(self, asked: str) -> str:
        """`asked` as one text: system, examples and the filled template, a blank line between."""
        shown = [_answered(self._turn(each.input), each.output) for each in self.examples]
        return "\n\n".join([*filter(None, [self.system]), *shown, self._turn(asked)])

    def messages(self, asked: Sequence[Message]) -> list[Message]:
        """`asked` as a chat: one system message, the examples as turns, the last user turn filled.

        A system message at the head of `asked` is joined to ours: templates refuse a second one.
        """
        rest = [dict(message) for message in asked]
        system = [self.system] if self.system else []
        if rest and rest[0]["role"] == "system":
            system.append(rest.pop(0)["content"])
        for message in reversed(rest):
            if message["role"] == "user":
                message["content"] = self._turn(message["content"])
                break
        opening = [_said("system", "\n\n".join(system))] if system else []
        shown = [
            message
            for each in self.examples
            for message in (
                _said("user", self._turn(each.input)),
                _said("assistant", each.output),
            )
        ]
        return [*opening, *shown, *rest]

    def _turn(self, text: str) -> str:
        return self.template.replace(PLACE, text)


def _answered(turn: str, output: str) -> str:
    return turn + output if turn[-1:].isspace() else f"{turn} {output}"


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}
