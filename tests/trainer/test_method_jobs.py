"""Whole jobs of the other methods and data: from a file to registered versions, with figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rootstock_registry import Job, Registry, Version
from rootstock_registry.errors import Conflict
from rootstock_trainer.errors import BadData, BadSpec
from rootstock_trainer.outcome import Place
from rootstock_trainer.progress import Progress
from rootstock_trainer.spec import TrainSpec
from rootstock_trainer.train import train

QUICK = {"n_epochs": 1, "batch_size": 16}


class Runner:
    """Submits, claims and runs specs; remembers the last report."""

    def __init__(self, registry: Registry, home: Path, claimed: Callable[[TrainSpec], Job]) -> None:
        self.registry, self.home, self.claimed = registry, home, claimed
        self.reports: list[Progress] = []

    def __call__(self, spec: TrainSpec, **changes: Any) -> Version:
        spec = TrainSpec.parse(spec.model_dump() | changes)
        self.reports = []
        job = self.claimed(spec)
        return train(spec, self.registry, job, self.reports.append, Place(self.home))

    @property
    def notes(self) -> tuple[str, ...]:
        return self.reports[-1].notes


@pytest.fixture
def run(registry: Registry, home: Path, claimed: Callable[[TrainSpec], Job]) -> Runner:
    return Runner(registry, home, claimed)


def kinds(version: Version) -> list[str]:
    return [part.kind for part in version.manifest.parts]


def test_several_label_columns_are_a_version_each_from_one_pass(
    run: Runner, head_spec: TrainSpec
) -> None:
    columns = {"label_columns": ["label", "about"]}
    version = run(head_spec, hyperparameters=columns, promote="prod")
    assert version.name == "mood-label"
    assert run.registry.resolve("local", "mood-about").manifest.parts[0].config["labels"] == [
        "other", "round"
    ]  # fmt: skip
    names = {adapter.name for adapter in run.registry.adapters("local")}
    assert names == {"mood-about", "mood-label"}
    assert sum("texts embedded" in note for note in run.notes) == 1


def test_a_late_worker_registers_none_of_several_versions(
    run: Runner, head_spec: TrainSpec
) -> None:
    spec = head_spec.model_copy(update={"hyperparameters": {"label_columns": ["label", "about"]}})
    job = run.registry.submit_job("local", spec.model_dump(mode="json"))
    zombie = run.registry.claim_job("zombie", 0.0, job.id)
    assert zombie is not None
    assert run.registry.claim_job("heir", 60.0, job.id) is not None
    with pytest.raises(Conflict):
        train(spec, run.registry, zombie, run.reports.append, Place(run.home))
    assert run.registry.adapters("local") == []


def test_a_hidden_layer_learns_what_a_line_cannot(
    run: Runner, head_spec: TrainSpec, encoder_folder: Path, reviews_csv: Path
) -> None:
    hidden = {"hidden": 24, "activation": "gelu", "n_epochs": 200, "c": 100.0}
    version = run(head_spec, hyperparameters=hidden)
    (part,) = version.manifest.parts
    assert part.config["hidden"] == 24
    assert version.manifest.evaluation["trained_parameters"] == 24 * 32 + 24 + 2 * 24 + 2
    assert version.manifest.evaluation["accuracy"] > 0.7
    again = run(head_spec, hyperparameters=hidden)
    assert again.manifest.parts[0].blob == part.blob


def test_probabilities_are_calibrated_on_held_out_rows_and_said_so(
    run: Runner, head_spec: TrainSpec
) -> None:
    """C far too small: the head hardly dares to say anything, until it is calibrated."""
    evaluation = run(head_spec, hyperparameters={"c": 0.05}).manifest.evaluation
    assert evaluation["ece_calibrated"] < evaluation["ece"]


def test_pooling_and_pairs_have_features_of_their_own(
    run: Runner, head_spec: TrainSpec, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["a", "b", "label"])
        for first in ("kettle", "lamp", "chair", "mug", "clock", "rug"):
            for second in ("kettle", "lamp", "chair"):
                writer.writerow([f"the {first}", second, "same" if first == second else "other"])
    pair = {"text_column": "a", "text_pair_column": "b", "data": file}
    version = run(head_spec, **pair)
    assert version.manifest.evaluation["train_rows"] == 14
    assert "18 texts embedded" in run.notes[0]
    version = run(head_spec, **pair, hyperparameters={"pooling": "max"})
    assert version.manifest.parts[0].config["pooling"] == "max"
    assert "18 texts embedded" in run.notes[0]


def test_a_classifier_is_one_version_of_adapter_and_head(run: Runner, head_spec: TrainSpec) -> None:
    version = run(head_spec, method="lora", hyperparameters=QUICK | {"early_stopping": 3})
    assert kinds(version) == ["lora", "head"]
    assert {"accuracy", "macro_f1", "majority_accuracy", "eval_loss"} <= set(
        version.manifest.evaluation
    )
    assert any(report.valid_loss is not None for report in run.reports)


@pytest.mark.parametrize("method", ["head", "bitfit"])
def test_words_with_labels_make_a_tagger(
    run: Runner, head_spec: TrainSpec, tmp_path: Path, method: str
) -> None:
    file = tmp_path / "words.jsonl"
    rows = [
        {"text": ["the", thing, "is", word], "label": ["O", "B-thing", "O", "O"]}
        for thing in ("kettle", "lamp", "chair", "mug")
        for word in ("lovely", "dull", "fine")
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"c": 100.0} if method == "head" else QUICK
    version = run(head_spec, method=method, data=file, hyperparameters=settings)
    head = version.manifest.parts[-1]
    assert (head.config["pooling"], head.config["labels"]) == ("none", ["B-thing", "O"])
    if method == "head":
        assert version.manifest.evaluation["accuracy"] > 0.8


def test_few_shot_shows_the_choice_that_helps_most_and_is_measured(
    run: Runner, lora_spec: TrainSpec
) -> None:
    few = {"shots": 1, "candidates": 3}
    version = run(lora_spec, method="few-shot", hyperparameters=few)
    (part,) = version.manifest.parts
    assert part.kind == "prompt"
    assert len(part.config["examples"]) == 1
    losses = [report.loss for report in run.reports if report.loss is not None]
    assert len(losses) == 3
    evaluation = version.manifest.evaluation
    assert evaluation["eval_loss"] != evaluation["base_eval_loss"]
    assert evaluation["trained_parameters"] == 0
    assert run(lora_spec, method="few-shot", hyperparameters=few).digest.startswith("sha256:")


def test_zero_shot_labels_have_an_instruction_and_an_accuracy(
    run: Runner, head_spec: TrainSpec, decoder_folder: Path
) -> None:
    decoder = {"base": "tiny-decoder", "base_path": decoder_folder}
    given = {"template": "{input} so", "system": "good, bad"}
    version = run(head_spec, method="prompt", **decoder, hyperparameters=given)
    assert version.manifest.parts[0].config["template"] == "{input} so"
    assert 0 <= version.manifest.evaluation["accuracy"] <= 1
    assert version.manifest.evaluation["held_out_rows"] == 20


@pytest.mark.parametrize(
    ("method", "fixture", "changes", "words"),
    [
        ("prompt", "lora_spec", {}, "says nothing without a template"),
        ("prompt", "head_spec", {}, "asks a decoder in words"),
        ("head", "lora_spec", {}, "head learns labels"),
        ("few-shot", "lora_spec", {"hyperparameters": {"shots": 40}}, "hyperparameters.shots: 40"),
        ("few-shot", "lora_spec", {"hyperparameters": {"shots": 9}}, "do not fit the base's"),
        ("lora", "head_spec", {"text_column": "words"}, "has the columns text, label, about"),
    ],
)
def test_what_does_not_go_together_is_said(
    run: Runner,
    request: pytest.FixtureRequest,
    method: str,
    fixture: str,
    changes: dict[str, Any],
    words: str,
) -> None:
    with pytest.raises(BadSpec, match=words):
        run(request.getfixturevalue(fixture), method=method, **changes)
    assert run.registry.adapters("local") == []


def test_a_validation_file_is_measured_and_its_questions_are_not_trained_on(
    run: Runner, lora_spec: TrainSpec, chats_jsonl: Path, tmp_path: Path
) -> None:
    lines = chats_jsonl.read_text().splitlines(keepends=True)
    file = tmp_path / "validation.jsonl"
    file.write_text("".join(lines[:6]))
    version = run(lora_spec, validation=file, hyperparameters=QUICK)
    evaluation = version.manifest.evaluation
    assert (evaluation["train_rows"], evaluation["held_out_rows"]) == (44, 6)
    assert "6 rows of chats.jsonl ask what validation.jsonl asks" in run.notes[0]
    assert any(report.valid_loss is not None for report in run.reports)


def test_labels_that_training_does_not_have_are_refused(
    run: Runner, head_spec: TrainSpec, tmp_path: Path
) -> None:
    file = tmp_path / "strange.csv"
    file.write_text("text,label\nthe lamp,odd\n")
    with pytest.raises(BadData, match=r"label 'odd' is nowhere in reviews\.csv"):
        run(head_spec, validation=file)
