"""Every version says how good it is, what it forgot and what it cost, whatever method made it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rootstock_registry import Job, Registry, Version
from rootstock_trainer.answering import Question, answers
from rootstock_trainer.base import Base
from rootstock_trainer.loop import STEPS_TO_TIME, Descent, descend
from rootstock_trainer.methods import table
from rootstock_trainer.spec import TrainSpec
from rootstock_trainer.tokens import TokenRow, collate
from rootstock_trainer.worker import REGISTERED, work
from rootstock_wire.methods import parse_settings

Run = Callable[..., tuple[Version, Job]]
SIZES = {"trained_parameters", "base_share", "artifact_bytes", "forgetting"}


@pytest.fixture
def run(registry: Registry, home: Path, claimed: Callable[[TrainSpec], Job]) -> Run:
    def train(spec: TrainSpec, **changes: Any) -> tuple[Version, Job]:
        values = {**spec.model_dump(mode="json"), "bars": True, **changes}
        job = claimed(TrainSpec.parse(values))
        assert work(registry, home, job) == REGISTERED, registry.job(job.id).error
        ended = registry.job(job.id)
        return registry.version(str(ended.version_digest)), ended

    return train


@pytest.mark.parametrize("method", ["lora", "soft_prompt", "prefix", "bottleneck", "full"])
def test_a_decoders_version_is_judged_by_its_answers_beside_the_bases(
    run: Run, lora_spec: TrainSpec, tmp_path: Path, method: str
) -> None:
    general = tmp_path / "general.jsonl"
    rows = [{"text": f"the {thing} is round"} for thing in ("mug", "lamp", "rug")]
    general.write_text("".join(json.dumps(row) + "\n" for row in rows))
    version, job = run(
        lora_spec, method=method, general=str(general),
        hyperparameters={"n_epochs": 1, "learning_rate": 0.02},
    )  # fmt: skip
    figures = version.manifest.evaluation
    texts = {"exact_match", "token_f1", "chrf", "bleu"}
    assert set(figures) >= SIZES | texts | {f"base_{name}" for name in texts}
    assert figures["answered_rows"] == figures["held_out_rows"] and figures["train_seconds"] > 0
    assert figures["forgetting"] == pytest.approx(
        figures["general_loss"] - figures["base_general_loss"]
    )
    assert figures["forgetting"] != 0
    tensors = sum(part.size for part in version.manifest.parts)
    assert tensors < figures["artifact_bytes"] < tensors + 2000
    assert any("3 texts, general.jsonl" in note for note in job.progress["notes"])


def test_an_encoders_version_is_judged_by_how_far_its_embeddings_moved(
    run: Run, head_spec: TrainSpec
) -> None:
    version, job = run(head_spec, method="bitfit", hyperparameters={"n_epochs": 1})
    figures = version.manifest.evaluation
    assert set(figures) >= SIZES | {"accuracy", "general_embedding_drift"}
    assert 0 < figures["forgetting"] == figures["general_embedding_drift"] < 2
    assert any("no masked-language head" in note for note in job.progress["notes"])


def test_a_head_forgets_nothing_and_measures_the_bars_when_asked(
    run: Run, head_spec: TrainSpec
) -> None:
    with_bars = run(head_spec)[0].manifest.evaluation
    assert with_bars["forgetting"] == 0 and with_bars["artifact_bytes"] > 0
    assert {"base_accuracy", "few_shot_accuracy", "base_macro_f1"} <= set(with_bars)
    without = run(head_spec, bars=False)[0].manifest.evaluation
    assert set(with_bars) - set(without) == {
        f"{bar}_{metric}" for bar in ("base", "few_shot") for metric in ("accuracy", "macro_f1")
    }


def test_a_prompt_is_judged_by_its_answers_and_forgets_nothing(
    run: Run, lora_spec: TrainSpec
) -> None:
    version, job = run(lora_spec, method="few-shot", hyperparameters={"shots": 1, "candidates": 1})
    figures = version.manifest.evaluation
    assert figures["forgetting"] == 0 == figures["trained_parameters"]
    assert {"chrf", "base_chrf"} <= set(figures)
    assert any(note.startswith("forgetting: 0") for note in job.progress["notes"])


@pytest.mark.parametrize("method", ["soft_prompt", "prefix", "bottleneck"])
def test_a_tuned_models_answers_together_are_its_answers_alone(
    registry: Registry, decoder_folder: Path, method: str
) -> None:
    base = Base(registry.base("tiny-decoder"), decoder_folder)
    settings = parse_settings(method, {})
    tuning = table.build(method, base.decoder(), base.card, settings, 0)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in tuning.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    prompts = [[0, 20, 21], [0, 30, 31, 32, 33, 34, 35], [0, 9]]
    asked = [Question(prompt, [7, 8, 1]) for prompt in prompts]
    tokenizer = base.tokenizer()
    virtual = tuning.virtual_tokens
    together = answers(tuning.model, tokenizer, asked, 64, virtual)
    alone = [answers(tuning.model, tokenizer, [q], 64, virtual)[0] for q in asked]
    assert together == alone
    # As the plain pass has it, without a cache.
    row = prompts[1]
    for _ in range(3 + 16):
        row = [*row, int(tuning.logits(collate([TokenRow(row, row)]))[0, -1].argmax())]
        if row[-1] == tokenizer.eos_token_id:
            break
    assert together[1] == tokenizer.decode(row[len(prompts[1]) :], skip_special_tokens=True)


def test_a_budget_in_seconds_shortens_the_run_and_its_schedule() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))

    def loss_of(_: int) -> torch.Tensor:
        return (weight - 1).square().sum()

    steps = list(descend([weight], range(100_000), loss_of, Descent(0.1, max_seconds=0.1)))
    assert STEPS_TO_TIME <= len(steps) < 100_000
    assert steps[-1].done == steps[-1].total and steps[0].total == 100_000
    few = list(descend([weight], range(3), loss_of, Descent(0.1, max_seconds=100.0)))
    assert len(few) == 3
