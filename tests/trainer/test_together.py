"""Runs that share a base's passes: each ends where it ends alone, whatever the others do."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from rootstock_adapters.architectures import ARCHITECTURES
from rootstock_adapters.base_card import BaseCard
from rootstock_trainer import joined_linears
from rootstock_trainer.base import Base
from rootstock_trainer.errors import TrainingFailed
from rootstock_trainer.gradient import GradientTraining
from rootstock_trainer.loop import Step
from rootstock_trainer.methods import table
from rootstock_trainer.objectives import Answers, Labels, Objective
from rootstock_trainer.together import Member, Together
from rootstock_trainer.tokens import IGNORED, TokenRow, TokenStore
from rootstock_wire.methods import LoraSettings, parse_settings
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

SIZES = json.loads((Path(__file__).parents[1] / "server" / "tiny_bases.json").read_text())
DECODERS = sorted(name for name, each in ARCHITECTURES.items() if each.task == "generate")


class Run(NamedTuple):
    """One of several, and what it is to do."""

    method: str = "lora"
    rows: int = 12
    tokens: int = 12
    seed: int = 0
    early: bool = False
    hyperparameters: Mapping[str, Any] = MappingProxyType({})


class Result(NamedTuple):
    tensors: dict[str, Tensor]
    steps: list[Step]
    loss: float


def tiny(folder: Path, model_type: str, auto: Any = AutoModelForCausalLM) -> Base:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZES[model_type])
    auto.from_config(config).save_pretrained(folder)
    return Base(BaseCard.read(folder, model_type), folder)


def store_of(run: Run) -> TokenStore:
    """Rows of uneven lengths whose ids depend on the run's seed."""
    made = []
    for number in range(run.rows):
        length = run.tokens - number % 3
        ids = [10 + (7 * number + 13 * place + 29 * run.seed) % 100 for place in range(length)]
        made.append(TokenRow(ids, [IGNORED] * (length // 2) + ids[length // 2 :]))
    return TokenStore(made)


def trained(base: Base, run: Run, member: Member | None = None) -> Result:
    values = {"rank": 2, "n_epochs": 2, "batch_size": 4, "learning_rate": 1e-2}
    settings = parse_settings(run.method, {**values, **run.hyperparameters})
    assert isinstance(settings, LoraSettings)
    model = base.model() if member is None else member.model(base)
    tuning = table.build(run.method, model, base.card, settings, run.seed)
    if member is not None:
        tuning = member.share(tuning)
    objective: Objective = Answers()
    store = store_of(run)
    if base.card.task == "encode":
        objective = Labels(base.card, ["a", "b"], False, run.seed)
        store = TokenStore([row._replace(targets=[n % 2]) for n, row in enumerate(store)])
    training = GradientTraining(tuning, objective, settings, run.seed)
    watched = range(2) if run.early else ()
    steps = list(training.run(store, range(run.rows), watched))
    tensors = {f"{i}.{name}": t for i, p in enumerate(training.parts()) for name, t in p[1].items()}
    return Result(tensors, steps, training.mean_loss(store, range(run.rows)))


def at_once(base: Base, runs: Sequence[Run], work: Callable[..., Result] = trained) -> list[Any]:
    """The results, or what was raised instead."""
    together, found = Together(len(runs)), list[Any](runs)

    def one(number: int, member: Member) -> None:
        try:
            with member.turn():
                found[number] = work(base, runs[number], member)
        except Exception as error:
            found[number] = error

    members = list(together.members)
    threads = [threading.Thread(target=one, args=each, daemon=True) for each in enumerate(members)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive(), "a run waits for ever"
    return found


def same(one: Result, other: Result) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(tensor, other.tensors[name], atol=1e-4, rtol=1e-4)
    assert len(one.steps) == len(other.steps)
    for mine, theirs in zip(one.steps, other.steps, strict=True):
        assert mine.loss == pytest.approx(theirs.loss, abs=1e-4)
    assert one.loss == pytest.approx(other.loss, abs=1e-4)


def test_runs_of_other_ranks_rows_lengths_and_ends_each_end_where_they_end_alone(
    tmp_path: Path,
) -> None:
    base = tiny(tmp_path, "llama")
    runs = [
        Run(),
        Run("rslora", rows=20, seed=1, hyperparameters={"rank": 5, "alpha": 3.0}),
        Run(tokens=30, seed=2, hyperparameters={"gradient_accumulation": 2}),
        Run(
            rows=9,
            seed=3,
            hyperparameters={"target_modules": ["q_proj", "down_proj"], "layers": "top1"},
        ),
        Run(early=True, seed=4, hyperparameters={"early_stopping": 1, "learning_rate": 0.5}),
    ]
    found = at_once(base, runs)
    for run, result in zip(runs, found, strict=True):
        assert isinstance(result, Result), result
        same(result, trained(base, run))
        assert result.steps[0].loss != pytest.approx(result.loss, abs=0.01)
    assert len({len(result.steps) for result in found}) > 2


@pytest.mark.parametrize("model_type", DECODERS)
def test_every_decoder_keeps_its_runs_apart(tmp_path: Path, model_type: str) -> None:
    base = tiny(tmp_path, model_type)
    runs = [Run(rows=4), Run(rows=4, tokens=10, seed=1, hyperparameters={"rank": 3})]
    for run, result in zip(runs, at_once(base, runs), strict=True):
        assert isinstance(result, Result), result
        same(result, trained(base, run))


def test_encoders_with_labels_train_together(tmp_path: Path) -> None:
    base = tiny(tmp_path, "bert", AutoModel)
    runs = [Run(rows=8), Run("rslora", rows=4, seed=1)]
    for run, result in zip(runs, at_once(base, runs), strict=True):
        assert isinstance(result, Result), result
        same(result, trained(base, run))


def test_a_run_whose_loss_breaks_ends_alone(tmp_path: Path) -> None:
    base = tiny(tmp_path, "llama")
    broken = Run(seed=1, hyperparameters={"learning_rate": 1e30})
    first, failed, last = at_once(base, [Run(), broken, Run(rows=16, seed=2)])
    assert isinstance(failed, TrainingFailed)
    same(first, trained(base, Run()))
    same(last, trained(base, Run(rows=16, seed=2)))


def test_a_run_that_fails_before_its_first_step_is_not_waited_for(tmp_path: Path) -> None:
    base = tiny(tmp_path, "llama")

    def work(base: Base, run: Run, member: Member) -> Result:
        if run.seed:
            raise ZeroDivisionError
        return trained(base, run, member)

    found, failed = at_once(base, [Run(), Run(seed=1)], work)
    assert isinstance(failed, ZeroDivisionError)
    same(found, trained(base, Run()))


def test_runs_on_a_base_too_large_for_copies_end_where_they_end_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_linears, "PACKED_BYTES", 0)
    base = tiny(tmp_path, "gpt2")
    runs = [Run(rows=8), Run(rows=4, seed=1)]
    for run, result in zip(runs, at_once(base, runs), strict=True):
        assert isinstance(result, Result), result
        same(result, trained(base, run))


@torch.no_grad()
def test_a_linear_that_is_not_packed_is_held_once() -> None:
    linear = torch.nn.Linear(6, 4)
    held = joined_linears.Frozen(linear, packed=False)
    linear.weight.mul_(3)  # a copy would not follow
    rows, gradient = torch.randn(5, 6), torch.randn(5, 4)
    torch.testing.assert_close(held.ahead(rows), linear(rows))
    torch.testing.assert_close(held.back(gradient), gradient @ linear.weight)
