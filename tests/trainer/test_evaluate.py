"""Our figures against scikit-learn's."""

from __future__ import annotations

import math

import pytest
import torch
from rootstock_trainer.evaluate import accuracy, macro_f1, majority_share, perplexity
from sklearn.metrics import accuracy_score, f1_score


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_and_macro_f1_are_scikit_learns(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randint(0, 3, (40,), generator=generator)  # label 3 is never predicted
    actual = torch.randint(0, 4, (40,), generator=generator)
    expected = f1_score(actual, predicted, labels=range(5), average="macro", zero_division=0)
    assert accuracy(predicted, actual) == pytest.approx(accuracy_score(actual, predicted))
    assert macro_f1(predicted, actual, 5) == pytest.approx(expected)


def test_majority_share_answers_the_most_frequent_training_label() -> None:
    assert majority_share(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0, 1, 0])) == 0.4


def test_perplexity_of_a_hopeless_loss_stays_a_number() -> None:
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert math.isfinite(perplexity(1e6))
