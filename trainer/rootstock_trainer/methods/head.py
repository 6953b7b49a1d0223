"""Method `head`: a classifier on stored features, linear or with a hidden layer.

Refuses to know texts, the base and where features come from.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from rootstock_adapters.activations import ACTIVATIONS
from rootstock_adapters.head.op import logits
from rootstock_wire.methods import HeadSettings
from torch import Tensor

from rootstock_trainer.errors import TrainingFailed

MAX_ITERATIONS = 1000
GRADIENT_TOLERANCE = 1e-6


class HeadWeights(NamedTuple):
    """H is the size of the hidden layer, where there is one."""

    weight: Tensor  # [labels, D] fp32; [labels, H] behind a hidden layer
    bias: Tensor  # [labels] fp32
    hidden_weight: Tensor | None = None  # [H, D] fp32
    hidden_bias: Tensor | None = None  # [H] fp32
    activation: str = "tanh"

    def logits(self, features: Tensor) -> Tensor:
        """[N, D] → [N, labels], as served."""
        if self.hidden_weight is not None and self.hidden_bias is not None:
            inner = logits(features, self.hidden_weight, self.hidden_bias)
            features = ACTIVATIONS[self.activation](inner)
        return logits(features, self.weight, self.bias)

    def predict(self, features: Tensor) -> Tensor:
        """The most probable label's index per row: [N, D] → [N]."""
        return self.logits(features).argmax(-1)

    def cooled(self, temperature: float) -> HeadWeights:
        """The same labels with logits divided by `temperature`: nothing to do at serving."""
        return self._replace(weight=self.weight / temperature, bias=self.bias / temperature)

    def tensors(self) -> dict[str, Tensor]:
        """By the names that HeadSpec demands."""
        named = {
            "weight": self.weight,
            "bias": self.bias,
            "hidden.weight": self.hidden_weight,
            "hidden.bias": self.hidden_bias,
        }
        return {name: tensor.contiguous() for name, tensor in named.items() if tensor is not None}


def train(
    features: Tensor, targets: Tensor, labels: int, settings: HeadSettings, seed: int
) -> HeadWeights:
    """`features` [N, D], `targets` [N]; a linear head is solved, a hidden layer descended."""
    if settings.hidden is None:
        return fit(features, targets, labels, settings.c)
    return fit_hidden(features, targets, labels, settings, seed)


def fit(features: Tensor, targets: Tensor, labels: int, c: float) -> HeadWeights:
    """Minimise `mean cross-entropy + |weight|² / (2 · c · N)`; `features` [N, D], `targets` [N].

    The objective is scikit-learn's LogisticRegression with C = c: convex, so where the optimiser
    starts does not matter, and no seed is involved. The bias is not penalised. Solved in float64
    by L-BFGS (Liu and Nocedal 1989). Raises TrainingFailed where it does not converge.
    """
    inputs = features.double()
    weight = torch.zeros(labels, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(labels, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=MAX_ITERATIONS,
        tolerance_grad=GRADIENT_TOLERANCE,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        penalty = weight.square().sum() / (2 * c * len(inputs))
        loss = F.cross_entropy(F.linear(inputs, weight, bias), targets) + penalty
        loss.backward()
        return loss

    optimizer.step(objective)
    loss = objective()
    steepest = max(p.grad.abs().max().item() for p in (weight, bias) if p.grad is not None)
    # The line search stops at float64's resolution, which may be just short of the tolerance.
    if not (torch.isfinite(loss) and steepest < 1e3 * GRADIENT_TOLERANCE):
        raise TrainingFailed(
            f"the head did not converge in {MAX_ITERATIONS} iterations "
            f"(loss {loss.item():.4g}, gradient {steepest:.2g}): lower hyperparameter c"
        )
    return HeadWeights(weight.detach().float(), bias.detach().float())


def fit_hidden(
    features: Tensor, targets: Tensor, labels: int, settings: HeadSettings, seed: int
) -> HeadWeights:
    """The same objective with a hidden layer, which makes it one for AdamW and batches.

    Raises TrainingFailed where the loss is not finite.
    """
    assert settings.hidden is not None
    generator = torch.Generator().manual_seed(seed)
    rows, width = features.shape

    def drawn(outputs: int, inputs: int) -> Tensor:
        return (torch.randn(outputs, inputs, generator=generator) / inputs**0.5).requires_grad_()

    inner, outer = drawn(settings.hidden, width), drawn(labels, settings.hidden)
    inner_bias, bias = torch.zeros(settings.hidden), torch.zeros(labels)
    weights = HeadWeights(
        outer, bias.requires_grad_(), inner, inner_bias.requires_grad_(), settings.activation
    )
    rate = settings.learning_rate * settings.learning_rate_multiplier
    optimizer = torch.optim.AdamW([outer, bias, inner, inner_bias], lr=rate, weight_decay=0.0)
    for _ in range(settings.n_epochs):
        for batch in torch.randperm(rows, generator=generator).split(settings.batch_size):
            optimizer.zero_grad()
            penalty = (outer.square().sum() + inner.square().sum()) / (2 * settings.c * rows)
            loss = F.cross_entropy(weights.logits(features[batch]), targets[batch]) + penalty
            loss.backward()
            optimizer.step()
    if not torch.isfinite(loss):
        raise TrainingFailed("the head's loss is not finite: lower hyperparameter learning_rate")
    return HeadWeights(
        outer.detach(), bias.detach(), inner.detach(), inner_bias.detach(), settings.activation
    )
