"""How a job says its method: OpenAI's shape, strict settings, one sentence for what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from rootstock_wire.methods import ALIASES, METHODS, SETTINGS, Method, parse_settings, to_message

MESSAGES: TypeAdapter[Method] = TypeAdapter(Method)


@pytest.mark.parametrize("name", [*METHODS, *ALIASES])
def test_a_method_named_alone_has_all_defaults(name: str) -> None:
    message = MESSAGES.validate_python({"type": name})
    assert message.settings == SETTINGS[message.name]()
    assert MESSAGES.validate_json(f'{{"type": "{name}"}}') == message


def test_openais_shape_is_read_and_written_again() -> None:
    asked = to_message("lora", {"rank": 4, "layers": "top4"})
    message = MESSAGES.validate_python(asked)
    assert message.chosen == {"rank": 4, "layers": "top4"}
    assert message.settings.model_dump()["n_epochs"] == 3
    assert message.model_dump(by_alias=True, exclude_unset=True) == asked


def test_plain_supervised_fine_tuning_is_lora_and_auto_is_the_default() -> None:
    hyperparameters = {"n_epochs": "auto", "learning_rate_multiplier": "auto", "batch_size": 2}
    message = MESSAGES.validate_python(to_message("supervised", hyperparameters))
    assert message.name == "lora"
    assert message.settings == parse_settings("lora", {"batch_size": 2})


@pytest.mark.parametrize(
    "message",
    [
        {"type": "magic"},
        {},
        {"type": "lora", "dora": {}},
        {"type": "lora", "lora": {"hyperparameters": {"rankk": 4}}},
        {"type": "lora", "lora": {"hyperparameters": {"rank": "4"}}},
        {"type": "lora", "lora": {"parameters": {}}},
    ],
)
def test_what_is_not_a_method_is_refused(message: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        MESSAGES.validate_python(message)


@pytest.mark.parametrize(
    ("given", "read"),
    [("top-half", "top-half"), (3, [3]), ("0, 3", [0, 3]), ([1], [1]), ("all", "all")],
)
def test_layers_are_words_or_numbers(given: object, read: object) -> None:
    assert parse_settings("bottleneck", {"layers": given}).model_dump()["layers"] == read


@pytest.mark.parametrize(
    ("method", "values", "words"),
    [
        ("magic", {}, "method: there is no method 'magic' (known: prompt, "),
        ("lora", {"rankk": 1}, "hyperparameters.rankk: method lora has no such"),
        ("lora", {"rank": True}, "hyperparameters.rank: "),
        ("lora", {"learning_rate": float("inf")}, "hyperparameters.learning_rate: "),
        ("bottleneck", {"layers": "bottom"}, "hyperparameters.layers: must be all, top-half, "),
        ("prompt", {"template": "no place"}, "hyperparameters.template: "),
    ],
)
def test_bad_settings_are_one_sentence(method: str, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"hyper|method") as error:
        parse_settings(method, values)
    assert str(error.value).startswith(words)
