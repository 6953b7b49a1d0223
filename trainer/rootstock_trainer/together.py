"""Low-rank runs of several jobs on one frozen base, whose batches go through it in one pass.

Each run stays what it is alone, in a thread of its own: its batches, loss, clipping, optimiser,
schedule, seed, checkpoints and end. Only the training pass through the base is shared, forward and
backward. One thread computes at a time. Refuses to know jobs, methods by name, and where rows come
from.

Rows do not read each other, and an adapter's gradient comes from its own rows, so nothing of one
run reaches another. Whoever starts a group still puts jobs of one tenant together only: one process
reads the data of all of them.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel

from rootstock_trainer.base import Base
from rootstock_trainer.joined_linears import LowRank, Share, Shares, join_linears
from rootstock_trainer.tokens import IGNORED, TokenBatch
from rootstock_trainer.tuning import TrainedPart, Tuning, Untouched

What = Literal["logits", "hidden"]
# Batches whose padding to one length would be more than this share of them go apart.
PADDING = 0.25


class Together:
    """`size` runs on one base. Each takes a `Member` before the first of them begins."""

    def __init__(self, size: int) -> None:
        self.members = [Member(self) for _ in range(size)]
        self.present = set(self.members)
        self.turn = threading.Condition()  # who holds it computes
        self.asked: list[_Asked] = []
        self._passes: list[_Pass] = []
        self._model: PreTrainedModel | None = None
        self._joined: tuple[Tuning, Shares] | None = None

    def model(self, base: Base) -> PreTrainedModel:
        """The base for one run: modules of its own around the weights that all runs share."""
        if self._model is None:
            self._model = base.model()
            model = _same_weights(self._model)
            self._joined = Untouched(model, base.card), join_linears(model)
        return _same_weights(self._model)

    def wait(self, asked: _Asked) -> None:
        """Until `asked` is answered; whoever completes the round computes it for all."""
        self.asked.append(asked)
        while not asked.answered:
            if len(self.asked) == len(self.present):
                self._answer()
                self.turn.notify_all()
            else:
                self.turn.wait()

    def _answer(self) -> None:
        """Backward first: what is asked forward belongs to a later step."""
        if any(asked.gradient is not None for asked in self.asked):
            for each in self._passes:
                each.backward()
            self._passes.clear()
            answered = [asked for asked in self.asked if asked.gradient is not None]
        else:
            assert self._joined is not None
            self._passes = [_Pass(*self._joined, group) for group in _alike(self.asked)]
            answered = self.asked
        for asked in answered:
            asked.answered = True
        self.asked = [asked for asked in self.asked if not asked.answered]


class Member:
    """One run's way into the shared base."""

    def __init__(self, together: Together) -> None:
        self._together = together

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Compute, with pauses in which others do. Afterwards this run is no longer waited for."""
        with self._together.turn:
            try:
                yield
            finally:
                self.leave()

    def leave(self) -> None:
        """Nobody waits for this run from now on. Twice is no error."""
        together = self._together
        with together.turn:
            together.present.discard(self)
            together.asked = [asked for asked in together.asked if asked.member is not self]
            together.turn.notify_all()

    def model(self, base: Base) -> PreTrainedModel:
        return self._together.model(base)

    def share(self, tuning: Tuning) -> Tuning:
        """The same tuning, whose training passes are shared. Its linears' updates are low-rank."""
        return _Shared(tuning, self)

    def pass_through(self, what: What, batch: TokenBatch, updates: dict[str, LowRank]) -> Tensor:
        asked = _Asked(self, what, batch, updates)
        self._together.wait(asked)
        assert asked.output is not None
        found: Tensor = _Apart.apply(asked.output.requires_grad_(), asked)
        return found

    def pass_back(self, asked: _Asked, gradient: Tensor) -> None:
        asked.gradient, asked.answered = gradient, False
        self._together.wait(asked)


class _Shared(Tuning):
    """A run's own tuning: in what it trains, what it becomes, and how it is measured."""

    def __init__(self, own: Tuning, member: Member) -> None:
        super().__init__(own.model, own.card)
        self._own, self._member = own, member
        self._updates = _updates(own)

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return self._own.parameters

    def part(self) -> TrainedPart:
        return self._own.part()

    def logits(self, batch: TokenBatch) -> Tensor:
        if not torch.is_grad_enabled():
            return self._own.logits(batch)
        return self._member.pass_through("logits", batch, self._updates)

    def hidden(self, batch: TokenBatch) -> Tensor:
        if not torch.is_grad_enabled():
            return self._own.hidden(batch)
        return self._member.pass_through("hidden", batch, self._updates)


class _Asked:
    """A batch on its way through the base and back."""

    def __init__(
        self, member: Member, what: What, batch: TokenBatch, updates: dict[str, LowRank]
    ) -> None:
        self.member, self.what, self.batch, self.updates = member, what, batch, updates
        self.answered = False
        self.output: Tensor | None = None  # [B, L, V] or [B, L, D]
        self.gradient: Tensor | None = None  # of the same shape


class _Apart(torch.autograd.Function):
    """Where one run's graph ends and the shared one begins."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, asked: _Asked) -> Tensor:
        ctx.asked = asked
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        ctx.asked.member.pass_back(ctx.asked, gradients[0])
        return None, None


class _Pass:
    """One pass of several runs' batches, and the graph to go back through."""

    def __init__(self, base: Tuning, shares: Shares, group: Sequence[_Asked]) -> None:
        shares.now = [Share(len(each.batch.ids), each.updates) for each in group]
        self._group = group
        with torch.enable_grad():
            batch = _side_by_side([each.batch for each in group])
            self._output = base.logits(batch) if group[0].what == "logits" else base.hidden(batch)
        plain = self._output.detach()
        for each, rows in zip(group, plain.split([s.rows for s in shares.now]), strict=True):
            each.output = rows[:, : each.batch.ids.shape[1]]

    def backward(self) -> None:
        """Gradients into the parameters of those who brought one; whoever has left gets none."""
        joined = torch.zeros_like(self._output)
        rows = joined.split([len(each.batch.ids) for each in self._group])
        for each, own in zip(self._group, rows, strict=True):
            if each.gradient is not None:
                own[:, : each.gradient.shape[1]] = each.gradient
        self._output.backward(joined)


def _updates(tuning: Tuning) -> dict[str, LowRank]:
    from peft.tuners.lora import LoraLayer

    return {
        path: LowRank(
            layer.lora_A["default"].weight,
            layer.lora_B["default"].weight,
            layer.scaling["default"],
        )
        for path, layer in tuning.model.named_modules()
        if isinstance(layer, LoraLayer)
    }


def _same_weights(model: PreTrainedModel) -> PreTrainedModel:
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _alike(asked: Sequence[_Asked]) -> Iterator[list[_Asked]]:
    """Groups that go through together: of one output, and of lengths that need little padding."""
    group: list[_Asked] = []
    for each in sorted(asked, key=lambda one: (one.what, one.batch.ids.shape[1])):
        if group and (each.what != group[0].what or _padding([*group, each]) > PADDING):
            yield group
            group = []
        group.append(each)
    if group:
        yield group


def _padding(group: Sequence[_Asked]) -> float:
    """The share of a joined batch that only joining has added."""
    rows = sum(len(each.batch.ids) for each in group)
    longest = max(each.batch.ids.shape[1] for each in group)
    return 1 - sum(each.batch.ids.numel() for each in group) / (rows * longest)


def _side_by_side(batches: Sequence[TokenBatch]) -> TokenBatch:
    """All rows of all batches, in their order; targets stay with those who know them."""
    ids, mask = (_stacked([getattr(each, name) for each in batches]) for name in ("ids", "mask"))
    targets = torch.full_like(ids, IGNORED)
    if batches[0].source is None:
        return TokenBatch(ids, mask, targets)
    sources = [_stacked([getattr(b, name) for b in batches]) for name in ("source", "source_mask")]
    return TokenBatch(ids, mask, targets, None, *sources)


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """[B, L] of each, right-padded with zeros to one length."""
    longest = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([pad(tensor, (0, longest - tensor.shape[1])) for tensor in tensors])
