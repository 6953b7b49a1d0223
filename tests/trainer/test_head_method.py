"""The head's optimiser against scikit-learn's, on the same objective."""

from __future__ import annotations

import pytest
import torch
from rootstock_trainer.errors import TrainingFailed
from rootstock_trainer.methods import head
from sklearn.linear_model import LogisticRegression


def blobs(labels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(120) % labels
    centres = torch.randn(labels, 12, generator=generator)
    return centres[targets] + torch.randn(120, 12, generator=generator), targets


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_weights_are_scikit_learns(c: float) -> None:
    features, targets = blobs(4)
    ours = head.fit(features, targets, 4, c)
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(features, targets)
    expected = torch.tensor(theirs.coef_, dtype=torch.float32)
    torch.testing.assert_close(ours.weight, expected, atol=2e-4, rtol=1e-3)


def test_two_labels_are_told_apart() -> None:
    features, targets = blobs(2)
    weights = head.fit(features, targets, 2, 1.0)
    theirs = LogisticRegression(C=1.0).fit(features, targets).predict(features)
    assert (weights.predict(features) == torch.tensor(theirs)).double().mean() > 0.98


def test_the_same_features_give_the_same_bits() -> None:
    features, targets = blobs(3)
    once, again = head.fit(features, targets, 3, 1.0), head.fit(features, targets, 3, 1.0)
    assert torch.equal(once.weight, again.weight)
    assert torch.equal(once.bias, again.bias)


def test_features_that_are_not_finite_fail_in_words() -> None:
    features, targets = blobs(3)
    features[0, 0] = float("nan")
    with pytest.raises(TrainingFailed, match="did not converge"):
        head.fit(features, targets, 3, 1.0)
