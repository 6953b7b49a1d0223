"""Method `head`: multinomial logistic regression on stored features.

Refuses to know texts, the base and where features come from.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from rootstock_adapters.head.op import logits
from torch import Tensor

from rootstock_trainer.errors import TrainingFailed

MAX_ITERATIONS = 1000
GRADIENT_TOLERANCE = 1e-6


class HeadWeights(NamedTuple):
    weight: Tensor  # [labels, D] fp32
    bias: Tensor  # [labels] fp32

    def predict(self, features: Tensor) -> Tensor:
        """The most probable label's index per row: [N, D] → [N]."""
        return logits(features, self.weight, self.bias).argmax(-1)


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
