"""What an encoder does without training: the bars that a trained version has to beat.

Refuses to know files and methods: features and names go in, figures come out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rootstock_trainer.evaluate import accuracy, macro_f1

SHOTS = 8  # examples of each label that the few-shot bar may look at


def zero_shot(features: Tensor, names: Tensor) -> Tensor:
    """The label whose name is nearest by cosine: [N, D] and [labels, D] → [N].

    How sentence encoders classify without examples (Yin et al., arXiv 1909.00161, with embeddings
    in place of entailment): the name of a label is a text like any other.
    """
    return F.normalize(features, dim=-1).matmul(F.normalize(names, dim=-1).T).argmax(-1)


def few_shot(features: Tensor, examples: Tensor, labels: Tensor, count: int, seed: int) -> Tensor:
    """The label with the nearest mean of SHOTS examples drawn by `seed`: [N, D] → [N].

    Prototypical networks' rule (Snell et al., arXiv 1703.05175) on frozen features; `examples`
    [M, D] and `labels` [M] are training rows, and every one of `count` labels has one.
    """
    chooser = random.Random(seed)
    means = []
    for label in range(count):
        rows = (labels == label).nonzero().flatten().tolist()
        chosen = chooser.sample(rows, min(SHOTS, len(rows)))
        means.append(examples[chosen].mean(0))
    return zero_shot(features, torch.stack(means))


def bar_figures(
    held_out: Tensor,
    actual: Tensor,
    train: Tensor,
    train_labels: Tensor,
    names: Tensor,
    seed: int,
) -> dict[str, float]:
    """Accuracy and macro F1 of both bars: `base_…` and `few_shot_…`, on the held-out rows."""
    count = len(names)
    bars = {
        "base": zero_shot(held_out, names),
        "few_shot": few_shot(held_out, train, train_labels, count, seed),
    }
    figures = {}
    for bar, predicted in bars.items():
        figures[f"{bar}_accuracy"] = accuracy(predicted, actual)
        figures[f"{bar}_macro_f1"] = macro_f1(predicted, actual, count)
    return figures


def readable(labels: Sequence[str]) -> list[str]:
    """Labels as texts to embed: `customer_complaint` is read as words."""
    return [label.replace("_", " ").replace("-", " ") for label in labels]
