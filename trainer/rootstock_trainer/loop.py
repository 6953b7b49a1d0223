"""The one training loop: AdamW, warm-up then cosine, clipped gradients, a stop where a loss breaks.

Refuses to know the model, the method and the data: it has parameters and a loss per batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from rootstock_trainer.errors import TrainingFailed

WARM_UP_SHARE = 0.05
MAX_GRADIENT_NORM = 1.0

Batch = TypeVar("Batch")


class Step(NamedTuple):
    done: int
    total: int
    loss: float


def descend(
    parameters: Sequence[torch.nn.Parameter],
    batches: Sequence[Batch],
    loss_of: Callable[[Batch], Tensor],
    learning_rate: float,
) -> Iterator[Step]:
    """One optimiser step per batch, reported after it is done.

    AdamW (Loshchilov and Hutter, arXiv 1711.05101) without weight decay: the updates are small and
    start at nothing. Raises TrainingFailed at the first loss or gradient that is not finite.
    """
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    total = len(batches)
    for number, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _schedule(number, total)
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        norm = clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise TrainingFailed(
                f"the loss is not finite at step {number + 1} of {total}: lower hyperparameter "
                f"learning_rate (now {learning_rate:g})"
            )
        optimizer.step()
        yield Step(number + 1, total, loss.item())


def _schedule(step: int, total: int) -> float:
    """Share of the learning rate: a linear rise, then a cosine (arXiv 1608.03983) to zero."""
    rise = max(1, math.ceil(WARM_UP_SHARE * total))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise + 1) / (total - rise + 1)))
