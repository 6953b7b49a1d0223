"""One run by gradient: a tuned base, an objective and rows, in batches or packed.

Refuses to know methods, files, and how a version is published.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from rootstock_wire.methods import GradientSettings, PrefixSettings
from torch import Tensor, nn

from rootstock_trainer.batches import by_length, shuffled
from rootstock_trainer.checkpoints import Checkpoints
from rootstock_trainer.errors import BadSpec
from rootstock_trainer.loop import Descent, Step, Summed, descend
from rootstock_trainer.objectives import Answers, Labels, Objective
from rootstock_trainer.recompute import recompute
from rootstock_trainer.tokens import TokenBatch, TokenStore, chosen, collate, pack
from rootstock_trainer.tuning import TrainedPart, Tuning

EVALUATION_BATCH_TOKENS = 2048
PROVEN_ROWS = 3
WATCHES = 20  # how often a run stops to measure what it watches
PACKING_TOLERANCE = 1e-3  # nats per token; rows that see each other differ by far more


class GradientTraining:
    """`tuning` and `objective` trained together on rows of a store.

    Raises BadSpec where the settings ask for packing that cannot be had.
    """

    def __init__(
        self, tuning: Tuning, objective: Objective, settings: GradientSettings, seed: int
    ) -> None:
        self.tuning, self.objective = tuning, objective
        self.settings, self.seed = settings, seed
        if settings.packing:
            _check_packable(tuning, objective)
        if settings.gradient_checkpointing:
            _check_recomputable(settings)
            recompute(_layers(tuning.model))

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.tuning.parameters, *self.objective.parameters]

    def parts(self) -> list[TrainedPart]:
        return [self.tuning.part(), *self.objective.parts()]

    def run(
        self,
        store: TokenStore,
        rows: Sequence[int],
        watched: Sequence[int] = (),
        checkpoints: Checkpoints | None = None,
    ) -> Iterator[Step]:
        """Train on `rows` of the store, now and then measuring `watched`; raises TrainingFailed
        where the loss breaks."""
        settings = self.settings
        if settings.packing:
            self._prove_packing(store, rows)
        lengths = store.lengths[list(rows)].tolist()
        plan = shuffled(lengths, settings.batch_size, settings.n_epochs, self.seed)

        def loss_of(batch: list[int]) -> Summed:
            return Summed(*self.loss(self._batch(store, [rows[i] for i in batch])))

        steps = -(-len(plan) // settings.gradient_accumulation)
        yield from descend(
            self.parameters,
            plan,
            loss_of,
            self._descent(max(1, steps // WATCHES) if watched else 0),
            checkpoints,
            lambda: self.mean_loss(store, watched),
        )

    def _descent(self, evaluate_every: int) -> Descent:
        own = self.settings
        return Descent(
            learning_rate=own.learning_rate * own.learning_rate_multiplier,
            schedule=own.schedule,
            warmup_ratio=own.warmup_ratio,
            weight_decay=own.weight_decay,
            max_grad_norm=own.max_grad_norm,
            gradient_accumulation=own.gradient_accumulation,
            bf16=own.bf16,
            early_stopping=own.early_stopping,
            evaluate_every=evaluate_every,
            max_seconds=own.max_seconds,
        )

    def loss(self, batch: TokenBatch) -> tuple[Tensor, int]:
        """Summed cross-entropy, and the number of its targets; in bfloat16 where that is set."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bf16):
            return self.objective.loss(self.tuning, batch)

    @torch.inference_mode()
    def mean_loss(self, store: TokenStore, rows: Sequence[int]) -> float:
        """Cross-entropy in nats per target over all of `rows`."""
        total, targets = 0.0, 0
        for batch in self._by_length(store, rows):
            loss, count = self.loss(batch)
            total, targets = total + loss.item(), targets + count
        return total / max(1, targets)

    @torch.inference_mode()
    def label_logits(self, store: TokenStore, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Of labels: logits [N, labels] and targets [N], in no order; N counts tokens where those
        are labelled."""
        objective = self.objective
        assert isinstance(objective, Labels)
        found, targets = [], []
        for batch in self._by_length(store, rows):
            told = batch.targets >= 0
            found.append(objective.logits(self.tuning, batch)[told])
            targets.append(batch.targets[told])
        return torch.cat(found), torch.cat(targets)

    def _by_length(self, store: TokenStore, rows: Sequence[int]) -> Iterator[TokenBatch]:
        lengths = store.lengths[list(rows)].tolist()
        for batch in by_length(lengths, EVALUATION_BATCH_TOKENS):
            yield collate(list(chosen(store, [rows[i] for i in batch])), self.objective.one_label)

    def _batch(self, store: TokenStore, rows: Sequence[int]) -> TokenBatch:
        own = list(chosen(store, rows))
        return pack(own) if self.settings.packing else collate(own, self.objective.one_label)

    @torch.inference_mode()
    def _prove_packing(self, store: TokenStore, rows: Sequence[int]) -> None:
        """An architecture that ignores where a row begins would read the row before, silently."""
        own = list(chosen(store, rows[:PROVEN_ROWS]))
        packed, targets = self.objective.loss(self.tuning, pack(own))
        apart, _ = self.objective.loss(self.tuning, collate(own, self.objective.one_label))
        if (packed - apart).abs().item() > PACKING_TOLERANCE * max(1, targets):
            raise BadSpec(
                f"hyperparameters.packing: packed rows read each other on base "
                f"{self.tuning.card.name} ({self.tuning.card.model_type}); leave packing out"
            )


def _check_packable(tuning: Tuning, objective: Objective) -> None:
    if tuning.card.task != "generate" or not isinstance(objective, Answers):
        raise BadSpec("hyperparameters.packing: only answers of decoders are packed; leave it out")
    if tuning.virtual_tokens:
        raise BadSpec(
            "hyperparameters.packing: virtual tokens stand before each row; leave packing out"
        )


def _check_recomputable(settings: GradientSettings) -> None:
    if isinstance(settings, PrefixSettings):
        raise BadSpec(
            "hyperparameters.gradient_checkpointing: a prefix lies in the cache, which a layer "
            "that is computed again would write twice; leave it out"
        )


def _layers(model: nn.Module) -> list[nn.Module]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    return [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
