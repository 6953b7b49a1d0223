"""What is asked of a tuned base: an answer's tokens, or labels. Losses, and the heads they need.

Refuses to know how the base is tuned, and where rows come from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.op import classify, pool, readout
from rootstock_adapters.head.spec import HeadSpec
from torch import Tensor, nn

from rootstock_trainer.tokens import IGNORED, TokenBatch
from rootstock_trainer.tuning import TrainedPart, Tuning, copied

HEAD_STD = 0.02  # as BERT begins its classifiers (Devlin et al., arXiv 1810.04805)


class Objective(ABC):
    """A loss, what it trains beside the method's own parameters, and the parts they become."""

    one_label = False  # whether a row has one target, not one for each of its tokens
    parameters: Sequence[nn.Parameter] = ()

    @abstractmethod
    def loss(self, tuning: Tuning, batch: TokenBatch) -> tuple[Tensor, int]:
        """Summed cross-entropy in nats, and the number of targets that it is the sum of."""

    def parts(self) -> list[TrainedPart]:
        return []


class Answers(Objective):
    """Each token of the answer, given what stands before it."""

    def loss(self, tuning: Tuning, batch: TokenBatch) -> tuple[Tensor, int]:
        targets = batch.targets[:, 1:]
        told = targets != IGNORED
        logits = tuning.logits(batch)[:, :-1][told]
        return F.cross_entropy(logits.float(), targets[told], reduction="sum"), int(told.sum())


class Labels(Objective):
    """One label a row, or one a token, out of a linear head that is trained with the method.

    Pooled as the base's card says, without dividing by the norm: the head's own scale is learnt.
    """

    def __init__(self, card: BaseCard, labels: Sequence[str], per_token: bool, seed: int) -> None:
        self.one_label = not per_token
        pooling = "none" if per_token else card.pooling
        self.spec = HeadSpec(pooling=pooling, normalize=False, labels=tuple(labels))
        generator = torch.Generator().manual_seed(seed)
        weight = HEAD_STD * torch.randn(len(labels), card.hidden_size, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(len(labels)))
        self.parameters = (self.weight, self.bias)

    def logits(self, tuning: Tuning, batch: TokenBatch) -> Tensor:
        """[B, labels]; [B, L, labels] where each token has a label."""
        assert batch.mask is not None
        hidden = tuning.hidden(batch)
        pooled = pool(hidden, batch.mask, self.spec.pooling, self.spec.normalize)
        return classify(pooled, readout(self.spec, self._tensors))

    def loss(self, tuning: Tuning, batch: TokenBatch) -> tuple[Tensor, int]:
        logits, targets = self.logits(tuning, batch), batch.targets
        told = targets != IGNORED
        found = F.cross_entropy(logits[told].float(), targets[told], reduction="sum")
        return found, int(told.sum())

    def parts(self) -> list[TrainedPart]:
        return [TrainedPart(self.spec, {name: copied(t) for name, t in self._tensors.items()})]

    @property
    def _tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "bias": self.bias}
