"""The bars an encoder sets without training: by its labels' names, and by a few examples."""

from __future__ import annotations

import torch
from rootstock_trainer.bars import SHOTS, bar_figures, few_shot, readable, zero_shot


def test_zero_shot_takes_the_name_with_the_smallest_angle() -> None:
    names = torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    features = torch.tensor([[3.0, 1.0], [0.1, 0.2], [9.0, 8.0]])
    assert zero_shot(features, names).tolist() == [0, 1, 0]


def test_few_shot_looks_at_no_more_examples_than_it_says() -> None:
    examples = torch.cat([torch.tensor([[1.0, 0.1]] * 50), torch.tensor([[0.1, 1.0]] * 3)])
    labels = torch.tensor([0] * 50 + [1] * 3)
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert few_shot(features, examples, labels, 2, seed=0).tolist() == [0, 1]
    # Examples that mislead, as many as are drawn, but only ever 8 of 50 of the first label.
    wild = examples.clone()
    wild[: 50 - SHOTS] = torch.tensor([-5.0, 0.1])
    seen = {tuple(few_shot(features, wild, labels, 2, seed).tolist()) for seed in range(5)}
    assert seen == {(1, 1)}


def test_figures_name_the_bar_and_the_metric() -> None:
    names = torch.eye(2)
    train, labels = torch.eye(2).repeat(4, 1), torch.tensor([0, 1] * 4)
    figures = bar_figures(torch.eye(2), torch.tensor([0, 1]), train, labels, names, seed=0)
    assert figures == {
        "base_accuracy": 1.0, "base_macro_f1": 1.0,
        "few_shot_accuracy": 1.0, "few_shot_macro_f1": 1.0,
    }  # fmt: skip
    assert readable(["customer_complaint", "so-so"]) == ["customer complaint", "so so"]
