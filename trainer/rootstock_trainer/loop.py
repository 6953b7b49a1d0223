"""The one training loop: AdamW under a schedule, clipped, resumable, stopped where a loss breaks.

Refuses to know the model, the method and the data: it has parameters and a loss per batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from rootstock_trainer.checkpoints import Checkpoints, State
from rootstock_trainer.errors import TrainingFailed

Batch = TypeVar("Batch")
# The first steps are slower than the others, and one alone is no measure.
STEPS_TO_TIME = 5


@dataclass(frozen=True)
class Descent:
    """How to descend, in the words of the methods' hyperparameters.

    `evaluate_every` so many optimiser steps, 0 for never. With `early_stopping` the run ends after
    so many evaluations in a row without a lower loss, and leaves the parameters of the lowest.
    With `max_seconds` the run has as many steps as its first ones say can be done in that time.
    """

    learning_rate: float
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_accumulation: int = 1
    bf16: bool = False
    early_stopping: int | None = None
    evaluate_every: int = 0
    max_seconds: float | None = None


class Summed(NamedTuple):
    """A batch's loss as a sum over `items`, so that accumulated batches weigh what they hold."""

    loss: Tensor
    items: int


class Step(NamedTuple):
    done: int
    total: int
    loss: float  # per item, over all batches of the step
    valid_loss: float | None = None


def descend(
    parameters: Sequence[torch.nn.Parameter],
    batches: Sequence[Batch],
    loss_of: Callable[[Batch], Tensor | Summed],
    how: Descent,
    checkpoints: Checkpoints | None = None,
    validate: Callable[[], float] | None = None,
) -> Iterator[Step]:
    """One optimiser step per `gradient_accumulation` batches, reported after it is done.

    `loss_of` gives a batch's mean loss, or its sum. AdamW (Loshchilov and Hutter, arXiv
    1711.05101). With `checkpoints` a run that was interrupted continues after the last whole one,
    and ends, on a CPU, in the same bits. Raises TrainingFailed at the first loss or gradient that
    is not finite.
    """
    planned = math.ceil(len(batches) / how.gradient_accumulation)
    run = _Run(parameters, how, planned)
    if checkpoints is not None and (state := checkpoints.load()) is not None:
        run.load(state)
    begun, first_step = time.perf_counter(), run.done
    while run.done < run.total and not run.stopped:
        first = run.done * how.gradient_accumulation
        last = min(first + how.gradient_accumulation, len(batches))
        loss = run.step([batches[i] for i in range(first, last)], loss_of)
        if validate is not None and how.evaluate_every and _validates(run, how):
            run.validated(validate())
        if how.max_seconds is not None and run.done == min(STEPS_TO_TIME, planned):
            per_step = (time.perf_counter() - begun) / (run.done - first_step)
            run.total = min(planned, max(run.done, int(how.max_seconds / per_step)))
        ended = run.stopped or run.done == run.total
        if checkpoints is not None and (ended or checkpoints.due()):
            checkpoints.save(run.state())
        valid_loss = run.valid_loss if run.validated_at == run.done else None
        yield Step(run.done, run.total, loss, valid_loss)
    run.keep_best()


class _Run:
    """Where a descent is: everything that a checkpoint must hold."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], how: Descent, total: int) -> None:
        self.how, self.planned, self.total, self.done = how, total, total, 0
        self.loss = math.nan
        self.valid_loss: float | None = None
        self.best_loss: float | None = None
        self.validated_at, self.worse = 0, 0
        self._parameters = parameters
        self._best: list[Tensor] = []
        self._optimizer = torch.optim.AdamW(
            parameters, lr=how.learning_rate, weight_decay=how.weight_decay, fused=True
        )

    @property
    def stopped(self) -> bool:
        patience = self.how.early_stopping
        return patience is not None and self.worse >= patience

    def step(self, batches: Sequence[Batch], loss_of: Callable[[Batch], Tensor | Summed]) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self.how.learning_rate * _share(self.done, self.total, self.how)
        self._optimizer.zero_grad()
        total, items = 0.0, 0
        for batch in batches:
            with self._precision():
                found = loss_of(batch)
            summed = found if isinstance(found, Summed) else Summed(found, 1)
            summed.loss.backward()
            total, items = total + summed.loss.item(), items + summed.items
        self._check_finite(total, self._clipped(items))
        self._optimizer.step()
        self.done += 1
        self.loss = total / items
        return self.loss

    def validated(self, loss: float) -> None:
        self.valid_loss, self.validated_at = loss, self.done
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.worse = loss, 0
            if self.how.early_stopping is not None:
                self._best = [parameter.detach().clone() for parameter in self._parameters]
        else:
            self.worse += 1

    @torch.no_grad()
    def keep_best(self) -> None:
        for parameter, best in zip(self._parameters, self._best, strict=False):
            parameter.copy_(best)

    def state(self) -> State:
        tensors = {"rng.torch": torch.random.get_rng_state()}
        for number, parameter in enumerate(self._parameters):
            tensors[f"parameter.{number}"] = parameter.detach()
            for name, value in self._optimizer.state[parameter].items():
                tensors[f"optimizer.{number}.{name}"] = value
        tensors |= {f"best.{number}": tensor for number, tensor in enumerate(self._best)}
        facts: dict[str, Any] = {
            "planned": self.planned,
            "total": self.total,
            "done": self.done,
            "worse": self.worse,
        }
        facts |= {"loss": self.loss, "valid_loss": self.valid_loss, "best_loss": self.best_loss}
        return State(facts | {"validated_at": self.validated_at}, tensors)

    @torch.no_grad()
    def load(self, state: State) -> None:
        facts, tensors = state
        if facts["planned"] != self.planned:
            raise TrainingFailed(
                f"the checkpoint was made on the way to step {facts['planned']}, this run has "
                f"{self.planned}: the examples have changed; submit the job again"
            )
        for number, parameter in enumerate(self._parameters):
            parameter.copy_(tensors[f"parameter.{number}"])
            prefix = f"optimizer.{number}."
            self._optimizer.state[parameter] = {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
        if "best.0" in tensors:
            self._best = [tensors[f"best.{number}"] for number in range(len(self._parameters))]
        self.total = facts["total"]
        self.done, self.worse, self.loss = facts["done"], facts["worse"], facts["loss"]
        self.valid_loss, self.best_loss = facts["valid_loss"], facts["best_loss"]
        self.validated_at = facts["validated_at"]
        torch.random.set_rng_state(tensors["rng.torch"])

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.how.bf16:
            return nullcontext()
        return torch.autocast(self._parameters[0].device.type, dtype=torch.bfloat16)

    def _clipped(self, items: int) -> Tensor:
        """Make sums into means, clip, and return the norm there was."""
        for parameter in self._parameters:
            if items != 1 and parameter.grad is not None:
                parameter.grad.div_(items)
        return clip_grad_norm_(self._parameters, self.how.max_grad_norm)

    def _check_finite(self, loss: float, norm: Tensor) -> None:
        if not (math.isfinite(loss) and torch.isfinite(norm)):
            raise TrainingFailed(
                f"the loss is not finite at step {self.done + 1} of {self.total}: lower "
                f"hyperparameter learning_rate (now {self.how.learning_rate:g})"
            )


def _validates(run: _Run, how: Descent) -> bool:
    return run.done % how.evaluate_every == 0 or run.done == run.total


def _share(step: int, total: int, how: Descent) -> float:
    """Share of the learning rate: a linear rise, then a cosine (arXiv 1608.03983) or a line to
    zero, or no fall at all."""
    rise = max(1, math.ceil(how.warmup_ratio * total))
    if step < rise:
        return (step + 1) / rise
    gone = (step - rise + 1) / (total - rise + 1)
    if how.schedule == "constant":
        return 1.0
    return 1 - gone if how.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * gone))
