"""The training loop: it descends, repeats itself exactly, and stops where a loss breaks."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from rootstock_trainer.errors import TrainingFailed
from rootstock_trainer.loop import Descent, Summed, descend


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([3.0, -2.0]))


def test_loss_falls_and_steps_are_counted() -> None:
    point = parameter()
    steps = list(descend([point], [None] * 50, lambda _: point.square().sum(), Descent(0.2)))
    assert [step.done for step in steps] == list(range(1, 51))
    assert {step.total for step in steps} == {50}
    assert steps[-1].loss < 0.1 * steps[0].loss


def test_the_same_batches_give_the_same_bits() -> None:
    def run() -> torch.Tensor:
        point = parameter()
        list(descend([point], [1.0, 2.0, 3.0], lambda b: (point - b).square().sum(), Descent(0.1)))
        return point.detach()

    assert torch.equal(run(), run())


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_loss_that_is_not_finite_fails_naming_the_step_and_the_remedy(broken: float) -> None:
    point = parameter()
    with pytest.raises(TrainingFailed, match=r"step 3 of 5: lower hyperparameter learning_rate"):
        list(
            descend([point], [1.0, 1.0, broken, 1.0, 1.0], lambda b: point.sum() * b, Descent(0.1))
        )
    assert torch.isfinite(point).all()


def rates(how: Descent, steps: int = 20) -> list[float]:
    """How far a parameter with a constant gradient goes in each step: AdamW goes by the rate."""
    point = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    places = [0.0]
    for _ in descend([point], [None] * steps, lambda _: point.sum(), how):
        places.append(point.item())
    return [before - after for before, after in pairwise(places)]


def test_schedules_rise_and_then_fall_as_they_are_named() -> None:
    cosine, linear, constant = (
        rates(Descent(1.0, schedule=name, warmup_ratio=0.25))  # type: ignore[arg-type]
        for name in ("cosine", "linear", "constant")
    )
    for rate in (cosine, linear, constant):
        assert rate[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0], rel=1e-6)
    assert constant[5:] == pytest.approx([1.0] * 15, rel=1e-6)
    assert linear[5:] == pytest.approx([1 - i / 16 for i in range(1, 16)], rel=1e-6)
    halfway = 0.5 * (1 + math.cos(math.pi * 0.5))
    assert cosine[12] == pytest.approx(halfway, abs=1e-6)


def test_accumulated_batches_weigh_as_many_items_as_they_hold() -> None:
    rows = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]

    def run(batches: list[list[float]], accumulated: int) -> torch.Tensor:
        point = torch.nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

        def loss_of(batch: list[float]) -> Summed:
            return Summed(sum((point - x).square().sum() for x in batch), len(batch))

        how = Descent(0.1, gradient_accumulation=accumulated)
        steps = list(descend([point], batches, loss_of, how))
        assert [step.done for step in steps] == [1, 2]
        return point.detach()

    whole = run([rows[:4], rows[4:]], 1)
    split = run([rows[:1], rows[1:4], rows[4:5], rows[5:]], 2)
    assert torch.allclose(whole, split, rtol=1e-12)


def test_the_gradient_is_clipped_to_its_norm() -> None:
    def run(factor: float, norm: float) -> torch.Tensor:
        point = torch.nn.Parameter(torch.tensor([0.5, 0.5]))
        # AdamW alone hides a gradient's scale; a second, small step shows what the first left.
        scales = [factor, 1.0]
        how = Descent(0.1, max_grad_norm=norm, schedule="constant")
        list(descend([point], scales, lambda scale: scale * point.sum(), how))
        return point.detach()

    assert torch.equal(run(1e3, 1.0), run(1e6, 1.0))
    assert not torch.equal(run(1e3, 1e9), run(1e6, 1e9))


def test_early_stopping_leaves_the_parameters_of_the_lowest_validation_loss() -> None:
    point = torch.nn.Parameter(torch.zeros(1))
    seen: list[float] = []
    losses = iter([3.0, 1.0, 2.0, 2.5, 0.0])

    def validate() -> float:
        seen.append(point.item())
        return next(losses)

    how = Descent(0.1, early_stopping=2, evaluate_every=2)
    steps = list(descend([point], [None] * 40, lambda _: point.sum(), how, validate=validate))
    assert len(steps) == 8
    assert [step.valid_loss for step in steps] == [None, 3.0, None, 1.0, None, 2.0, None, 2.5]
    assert point.item() == seen[1]


def test_bf16_computes_the_loss_in_bfloat16_and_keeps_the_parameters_in_float32() -> None:
    layer = torch.nn.Linear(4, 1)
    dtypes = []

    def loss_of(_: None) -> torch.Tensor:
        out = layer(torch.ones(1, 4))
        dtypes.append(out.dtype)
        return out.float().square().sum()

    list(descend(list(layer.parameters()), [None], loss_of, Descent(0.1, bf16=True)))
    assert dtypes == [torch.bfloat16]
    assert layer.weight.dtype == torch.float32
