"""The training loop: it descends, repeats itself exactly, and stops where a loss breaks."""

from __future__ import annotations

import math

import pytest
import torch
from rootstock_trainer.errors import TrainingFailed
from rootstock_trainer.loop import descend


def parameter() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([3.0, -2.0]))


def test_loss_falls_and_steps_are_counted() -> None:
    point = parameter()
    steps = list(descend([point], [None] * 50, lambda _: point.square().sum(), 0.2))
    assert [step.done for step in steps] == list(range(1, 51))
    assert {step.total for step in steps} == {50}
    assert steps[-1].loss < 0.1 * steps[0].loss


def test_the_same_batches_give_the_same_bits() -> None:
    def run() -> torch.Tensor:
        point = parameter()
        list(descend([point], [1.0, 2.0, 3.0], lambda b: (point - b).square().sum(), 0.1))
        return point.detach()

    assert torch.equal(run(), run())


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_loss_that_is_not_finite_fails_naming_the_step_and_the_remedy(broken: float) -> None:
    point = parameter()
    with pytest.raises(TrainingFailed, match=r"step 3 of 5: lower hyperparameter learning_rate"):
        list(descend([point], [1.0, 1.0, broken, 1.0, 1.0], lambda b: point.sum() * b, 0.1))
    assert torch.isfinite(point).all()
