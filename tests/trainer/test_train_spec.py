"""The job spec: strict, frozen, and clear about what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from rootstock_trainer.errors import BadSpec
from rootstock_trainer.spec import TrainSpec

SPEC = {"method": "lora", "base": "b", "base_path": "/b", "data": "/d.jsonl", "name": "n"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "magic"}, "method: there is no method 'magic'"),
        ({"hyperparameters": {"rankk": 4}}, "hyperparameters.rankk: method lora has no such"),
        ({"hyperparameters": {"rank": 0}}, "hyperparameters.rank: Input should be greater"),
        ({"hyperparameters": {"rank": 2.5}}, "hyperparameters.rank"),
        ({"hyperparameters": {"learning_rate": float("nan")}}, "hyperparameters.learning_rate"),
        ({"method": "head", "hyperparameters": {"rank": 4}}, "method head has no such"),
        ({"seed": -1}, "seed: "),
        ({"task": "guess"}, "task: Input should be 'generate', 'classify'"),
        ({"promote": "p", "require": ["accuracy"]}, "require 'accuracy' is not a gate"),
        ({"promote": "p", "require": ["signature"]}, "sign it, then promote"),
        ({"require": ["accuracy>=0.9"]}, "require: it needs promote"),
        ({"epochs": 3}, "epochs: Extra inputs are not permitted"),
    ],
)
def test_bad_spec_is_refused_naming_the_field(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec) as error:
        TrainSpec.parse(SPEC | change)
    assert words in error.value.message


def test_spec_survives_the_job_row() -> None:
    spec = TrainSpec.parse(SPEC | {"hyperparameters": {"rank": 4, "learning_rate": 1e-3}})
    assert TrainSpec.parse(spec.model_dump(mode="json")) == spec


def test_spec_is_frozen() -> None:
    spec = TrainSpec.parse(SPEC)
    with pytest.raises(ValidationError, match="frozen"):
        spec.seed = 1


def test_aliases_become_the_methods_own_names() -> None:
    assert TrainSpec.parse(SPEC | {"method": "supervised"}).method == "lora"
    assert TrainSpec.parse(SPEC | {"method": "prefix-tuning"}).method == "prefix"


def test_a_head_may_learn_several_columns_and_anything_else_one() -> None:
    columns = {"hyperparameters": {"label_columns": ["mood", "type"]}}
    assert TrainSpec.parse(SPEC | columns | {"method": "head"}).label_columns == ("mood", "type")
    assert TrainSpec.parse(SPEC).label_columns == ("label",)
