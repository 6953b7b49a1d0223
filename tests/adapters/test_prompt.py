"""What a prompt says around a caller's text, as one text and as a chat."""

from __future__ import annotations

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.prompt.spec import NO_TENSORS, Example, PromptSpec

SHOWN = (Example(input="1", output="2"),)


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def test_only_the_place_of_the_input_is_filled() -> None:
    spec = PromptSpec(template='{"q": "{input}"} {other} {{input}}')
    assert spec.text("{input} $1 \\1") == '{"q": "{input} $1 \\1"} {other} {{input} $1 \\1}'


def test_examples_are_answered_in_the_template_and_parted_by_blank_lines() -> None:
    spec = PromptSpec(template="Q:{input}\nA:", system="S", examples=SHOWN)
    assert spec.text("3") == "S\n\nQ:1\nA: 2\n\nQ:3\nA:"
    spec = PromptSpec(template="{input}\n", examples=SHOWN)
    assert spec.text("3") == "1\n2\n\n3\n"


def test_a_chat_keeps_its_turns_behind_ours_and_only_its_last_question_is_filled() -> None:
    spec = PromptSpec(template="?{input}", system="S", examples=SHOWN)
    asked = said(("system", "T"), ("user", "a"), ("assistant", "b"), ("user", "c"))
    assert spec.messages(asked) == said(
        ("system", "S\n\nT"), ("user", "?1"), ("assistant", "2"),
        ("user", "a"), ("assistant", "b"), ("user", "?c"),
    )  # fmt: skip
    assert asked[-1]["content"] == "c", "the caller's own messages are left alone"


def test_a_chat_without_a_question_is_left_as_it_is() -> None:
    spec = PromptSpec(template="?{input}")
    assert spec.messages(said(("system", "T"))) == said(("system", "T"))
    named = [{"role": "user", "content": "c", "name": "ann"}]
    assert spec.messages(named) == [{"role": "user", "content": "?c", "name": "ann"}]


def test_a_prompt_fits_every_base_and_has_no_tensors() -> None:
    card = BaseCard.model_construct(name="any")
    assert PromptSpec(system="S").check(NO_TENSORS, card) == {}
