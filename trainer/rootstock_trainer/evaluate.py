"""The figures a version is registered with: how well it does on rows that it was not trained on.

Refuses to know how the predictions were made.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def accuracy(predicted: Tensor, actual: Tensor) -> float:
    """Share of equal entries of two integer tensors [N]."""
    return (predicted == actual).double().mean().item()


def macro_f1(predicted: Tensor, actual: Tensor, labels: int) -> float:
    """Mean over labels of the F1 score, [N] each; a label that is nowhere counts as 0, as in
    scikit-learn's `f1_score(average="macro", labels=range(labels), zero_division=0)`."""
    scores = []
    for label in range(labels):
        hits = ((predicted == label) & (actual == label)).sum().item()
        claimed, present = (predicted == label).sum().item(), (actual == label).sum().item()
        scores.append(2 * hits / (claimed + present) if claimed + present else 0.0)
    return sum(scores) / labels


def majority_share(train: Tensor, held_out: Tensor) -> float:
    """Accuracy of always answering the label most frequent in training: the figure to beat."""
    most_frequent = torch.bincount(train).argmax()
    return accuracy(most_frequent.expand_as(held_out), held_out)


def perplexity(loss: float) -> float:
    """exp of the mean loss per token in nats; the largest float where that would overflow."""
    return math.exp(min(loss, 700.0))
