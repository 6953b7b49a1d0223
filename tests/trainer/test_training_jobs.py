"""A job from its spec to its version, in this process, on a real registry."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rootstock_adapters.head.op import logits
from rootstock_registry import Job, Registry, Version
from rootstock_registry.errors import Conflict, InvalidName, NotFound
from rootstock_trainer.base import Base
from rootstock_trainer.errors import BadData, BadSpec, TrainingFailed
from rootstock_trainer.features import features_for
from rootstock_trainer.outcome import Place
from rootstock_trainer.progress import Progress
from rootstock_trainer.spec import TrainSpec
from rootstock_trainer.train import train
from safetensors.torch import load

FAST = {"learning_rate": 1e-2, "n_epochs": 4}


class Runner:
    """Submits, claims and runs specs; remembers what the last run reported."""

    def __init__(self, registry: Registry, home: Path, claimed: Callable[[TrainSpec], Job]) -> None:
        self.registry, self.home, self.claimed = registry, home, claimed
        self.reports: list[Progress] = []

    def __call__(self, spec: TrainSpec, **changes: Any) -> Version:
        spec = TrainSpec.parse(spec.model_dump() | changes)
        self.reports = []
        job = self.claimed(spec)
        return train(spec, self.registry, job, self.reports.append, Place(self.home))


@pytest.fixture
def run(registry: Registry, home: Path, claimed: Callable[[TrainSpec], Job]) -> Runner:
    return Runner(registry, home, claimed)


def test_head_learns_separable_texts_and_is_registered_whole(
    run: Runner, head_spec: TrainSpec
) -> None:
    version = run(head_spec, hyperparameters={"c": 100.0}, promote="prod", seed=5)
    evaluation, lineage = version.manifest.evaluation, version.manifest.lineage
    assert evaluation["accuracy"] > evaluation["majority_accuracy"] + 0.2
    assert evaluation["macro_f1"] > 0.7
    assert (evaluation["train_rows"], evaluation["held_out_rows"]) == (80, 20)
    assert evaluation["trained_parameters"] == 2 * 32 + 2
    assert 0 < evaluation["base_share"] < 0.01
    assert (lineage.method, lineage.seed) == ("head", 5)
    dataset = run.registry.evidence.dataset("local", lineage.dataset_digest)
    assert dataset is not None and dataset.digest == lineage.dataset_digest
    assert (dataset.rows, dataset.columns) == (100, ("text", "label"))
    assert "torch" in lineage.libraries
    assert run.registry.resolve("local", "mood").digest == version.digest
    (part,) = version.manifest.parts
    assert part.config["labels"] == ["bad", "good"]


def test_registered_head_scores_as_its_manifest_says(
    run: Runner, head_spec: TrainSpec, reviews_csv: Path
) -> None:
    version = run(head_spec)
    (part,) = version.manifest.parts
    tensors = load(run.registry.blobs.get(part.blob))
    base = Base(run.registry.base("tiny-encoder"), head_spec.base_path)
    rows = [line.split(",") for line in reviews_csv.read_text().splitlines()[1:]]
    pooled = features_for(base, [row[0] for row in rows], run.home, lambda *_: None).rows
    answers = logits(pooled, tensors["weight"], tensors["bias"]).argmax(-1).tolist()
    right = sum(part.config["labels"][a] == row[1] for a, row in zip(answers, rows, strict=True))
    assert right / len(rows) >= version.manifest.evaluation["accuracy"] - 0.2


def test_second_head_on_the_same_texts_embeds_nothing_and_says_so(
    run: Runner, head_spec: TrainSpec
) -> None:
    run(head_spec)
    assert any(report.stage == "embedding" for report in run.reports)
    assert "100 texts embedded" in run.reports[-1].notes[0]
    run(head_spec, name="about", label_column="about")
    assert not any(report.stage == "embedding" for report in run.reports)
    assert run.reports[-1].notes[0].startswith("reusing stored features")
    assert run.reports[-1].notes[0].endswith("0 texts embedded")


def test_decoder_base_carries_heads_too(
    run: Runner, head_spec: TrainSpec, decoder_folder: Path
) -> None:
    version = run(head_spec, base="tiny-decoder", base_path=decoder_folder)
    assert version.manifest.parts[0].config["pooling"] == "last"
    assert version.manifest.evaluation["accuracy"] > 0.6


def test_lora_lowers_the_held_out_loss_and_is_registered_whole(
    run: Runner, lora_spec: TrainSpec
) -> None:
    version = run(lora_spec, hyperparameters=FAST)
    evaluation = version.manifest.evaluation
    assert evaluation["eval_loss"] < 0.5 * evaluation["base_eval_loss"]
    assert evaluation["perplexity"] == pytest.approx(math.exp(evaluation["eval_loss"]))
    assert (evaluation["train_rows"], evaluation["held_out_rows"]) == (40, 10)
    assert 0 < evaluation["base_share"] < 1
    assert "peft" in version.manifest.lineage.libraries
    steps = [report for report in run.reports if report.stage == "training"]
    assert (steps[-1].done, steps[-1].total) == (20, 20)
    assert steps[-1].loss is not None


@pytest.mark.parametrize("method", ["head", "lora"])
def test_same_seed_gives_the_same_weights(
    run: Runner, request: pytest.FixtureRequest, method: str
) -> None:
    spec = request.getfixturevalue(f"{method}_spec")
    once, again, other = run(spec), run(spec), run(spec, seed=1)
    assert once.manifest.parts[0].blob == again.manifest.parts[0].blob
    assert once.manifest.parts[0].blob != other.manifest.parts[0].blob
    assert once.manifest.lineage.dataset_digest == other.manifest.lineage.dataset_digest
    assert once.manifest.lineage.job != again.manifest.lineage.job


def test_lora_on_an_encoder_is_refused_naming_head(
    run: Runner, lora_spec: TrainSpec, encoder_folder: Path
) -> None:
    with pytest.raises(BadSpec, match=r"tiny-encoder is an encoder .*use method head"):
        run(lora_spec, base="tiny-encoder", base_path=encoder_folder)


def test_folder_that_is_not_the_registered_base_is_refused(
    run: Runner, head_spec: TrainSpec, encoder_folder: Path, tmp_path: Path
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(encoder_folder, changed)
    config = json.loads((changed / "config.json").read_text())
    (changed / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(BadSpec, match="is not the registered base tiny-encoder"):
        run(head_spec, base_path=changed)
    with pytest.raises(BadSpec, match="base_path: there is no folder"):
        run(head_spec, base_path=tmp_path / "nowhere")


def test_loss_that_explodes_fails_in_words_and_registers_nothing(
    run: Runner, lora_spec: TrainSpec
) -> None:
    with pytest.raises(TrainingFailed, match="the loss is not finite at step"):
        run(lora_spec, hyperparameters={"learning_rate": 1e30})
    assert run.registry.adapters("local") == []


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": "No Good"}, InvalidName),
        ({"promote": "No Good"}, InvalidName),
        ({"base": "nobody"}, NotFound),
        ({"data": "/nowhere.csv"}, BadData),
    ],
)
def test_bad_job_is_refused_before_anything_is_trained(
    run: Runner, head_spec: TrainSpec, changes: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        run(head_spec, **changes)
    assert {report.stage for report in run.reports} <= {"reading"}


def test_job_taken_over_while_it_trains_registers_nothing(
    run: Runner, head_spec: TrainSpec
) -> None:
    job = run.registry.submit_job("local", head_spec.model_dump(mode="json"))
    zombie = run.registry.claim_job("zombie", 0.0, job.id)
    heir = run.registry.claim_job("heir", 60.0, job.id)
    assert zombie is not None
    assert heir is not None
    with pytest.raises(Conflict):
        train(head_spec, run.registry, zombie, run.reports.append, Place(run.home))
    assert run.registry.adapters("local") == []
    version = train(head_spec, run.registry, heir, run.reports.append, Place(run.home))
    assert run.registry.job(job.id).version_digest == version.digest


def test_training_leaves_the_callers_random_state_alone(run: Runner, lora_spec: TrainSpec) -> None:
    before = torch.random.get_rng_state()
    run(lora_spec)
    assert torch.equal(torch.random.get_rng_state(), before)
