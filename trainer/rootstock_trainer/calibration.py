"""Probabilities that mean what they say: one temperature, and how far off they are.

Guo et al., arXiv 1706.04599. Refuses to know what is classified.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15  # as in the paper
MIN_ROWS = 10  # below, a temperature would be a guess
COLDEST, HOTTEST = 0.05, 20.0
STEPS = 60


def temperature(logits: Tensor, targets: Tensor) -> float:
    """The T that makes softmax(logits / T) likeliest: [N, labels], [N].

    1 where there are under 10 rows. The loss has one minimum in 1/T, found by golden section.
    """
    if len(targets) < MIN_ROWS:
        return 1.0
    own = logits.double()

    def loss(log_t: float) -> float:
        return F.cross_entropy(own / torch.tensor(log_t).exp(), targets).item()

    low = torch.tensor(COLDEST).log().item()
    high = torch.tensor(HOTTEST).log().item()
    ratio = (5**0.5 - 1) / 2
    for _ in range(STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return float(torch.tensor((low + high) / 2).exp())


def expected_calibration_error(logits: Tensor, targets: Tensor) -> float:
    """Mean distance of confidence and accuracy, over 15 bins of confidence: [N, labels], [N]."""
    confidence, predicted = F.softmax(logits.double(), dim=-1).max(-1)
    right = (predicted == targets).double()
    bins = (confidence * BINS).ceil().clamp(1, BINS).long() - 1
    total = 0.0
    for number in range(BINS):
        inside = bins == number
        if inside.any():
            gap = (confidence[inside].mean() - right[inside].mean()).abs().item()
            total += gap * inside.double().mean().item()
    return total


def calibrated_error(logits: Tensor, targets: Tensor) -> float:
    """The error after a temperature that was fitted on the other half of the rows, both ways: a
    temperature is not measured on the rows that chose it."""
    even = torch.arange(len(targets)) % 2 == 0
    halves = [(even, ~even), (~even, even)]
    scaled = torch.empty_like(logits)
    for fitted, measured in halves:
        scaled[measured] = logits[measured] / temperature(logits[fitted], targets[fitted])
    return expected_calibration_error(scaled, targets)
