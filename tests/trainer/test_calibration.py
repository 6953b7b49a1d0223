"""One temperature makes probabilities mean what they say, and is part of the head itself."""

from __future__ import annotations

import pytest
import torch
from rootstock_trainer.calibration import (
    calibrated_error,
    expected_calibration_error,
    temperature,
)
from rootstock_trainer.methods.head import HeadWeights


def drawn(count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn with just their probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, 3, generator=generator)
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator).flatten()


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_that_was_put_in_is_found(factor: float) -> None:
    logits, targets = drawn()
    assert temperature(logits * factor, targets) == pytest.approx(factor, rel=0.1)


def test_the_error_is_the_distance_of_confidence_and_accuracy() -> None:
    logits, targets = drawn()
    assert expected_calibration_error(logits, targets) < 0.03
    assert expected_calibration_error(logits * 4, targets) > 0.1
    assert calibrated_error(logits * 4, targets) < 0.03
    sure = torch.tensor([[9.0, -9.0]] * 10)
    assert expected_calibration_error(sure, torch.ones(10, dtype=torch.long)) == pytest.approx(1.0)


def test_few_rows_leave_the_head_alone() -> None:
    logits, targets = drawn(9)
    assert temperature(logits, targets) == 1.0


def test_a_temperature_becomes_part_of_the_last_layer() -> None:
    torch.manual_seed(0)
    weights = HeadWeights(
        torch.randn(3, 5), torch.randn(3), torch.randn(5, 8), torch.randn(5), "gelu"
    )
    features = torch.randn(6, 8)
    torch.testing.assert_close(weights.cooled(2.5).logits(features), weights.logits(features) / 2.5)
    assert weights.cooled(2.5).tensors().keys() == {
        "weight", "bias", "hidden.weight", "hidden.bias"
    }  # fmt: skip
