"""Method `lora`: low-rank updates of every linear of a decoder (Hu et al., arXiv 2106.09685).

Trained with PEFT, exported under the names that LoraSpec demands. Refuses to know where the
examples come from and where the part will be stored.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from rootstock_adapters.base_card import ARCHITECTURES, BaseCard
from rootstock_adapters.lora.spec import LoraSpec
from torch import Tensor
from transformers import PreTrainedModel

from rootstock_trainer.batches import by_length, shuffled
from rootstock_trainer.checkpoints import Checkpoints
from rootstock_trainer.loop import Descent, Step, descend
from rootstock_trainer.spec import LoraSettings
from rootstock_trainer.tokens import IGNORED, TokenBatch, TokenRow, collate

EVALUATION_BATCH_TOKENS = 2048


class LoraPart(NamedTuple):
    spec: LoraSpec
    tensors: dict[str, Tensor]  # fp32, named as the spec says


class LoraTraining:
    """One run on one loaded decoder, which is changed in place."""

    def __init__(
        self, model: PreTrainedModel, card: BaseCard, settings: LoraSettings, seed: int
    ) -> None:
        self._card, self._settings, self._seed = card, settings, seed
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules=[f"{card.prefix}.{module}" for module in card.linears],
            fan_in_fan_out=ARCHITECTURES[card.model_type].transposed,
        )
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(seed)
            # PEFT still asks transformers for a property under its old name.
            warnings.simplefilter("ignore", FutureWarning)
            # Never in training mode: dropout that a base's config asks for belongs to its
            # pre-training, and a rerun must be the same run.
            self._model: PeftModel = get_peft_model(model, config).eval()

    def run(
        self, rows: Sequence[TokenRow], checkpoints: Checkpoints | None = None
    ) -> Iterator[Step]:
        """Train on `rows`; raises TrainingFailed where the loss breaks."""
        settings = self._settings
        lengths = [len(row.ids) for row in rows]
        plan = shuffled(lengths, settings.batch_size, settings.n_epochs, self._seed)
        batches = [[rows[i] for i in batch] for batch in plan]
        trained = [p for p in self._model.parameters() if p.requires_grad]

        def loss_of(batch: list[TokenRow]) -> Tensor:
            total, tokens = self._loss(collate(batch))
            return total / tokens

        yield from descend(trained, batches, loss_of, Descent(settings.learning_rate), checkpoints)

    @torch.inference_mode()
    def mean_loss(self, rows: Sequence[TokenRow]) -> float:
        """Cross-entropy in nats per answer token over all of `rows`."""
        total, tokens = 0.0, 0
        for batch in by_length([len(row.ids) for row in rows], EVALUATION_BATCH_TOKENS):
            loss, count = self._loss(collate([rows[i] for i in batch]))
            total, tokens = total + loss.item(), tokens + count
        return total / tokens

    def part(self) -> LoraPart:
        card, tensors = self._card, {}
        for module in card.linears:
            layer = self._model.base_model.model.get_submodule(f"{card.prefix}.{module}")
            for matrix in ("lora_A", "lora_B"):
                weight = getattr(layer, matrix)["default"].weight
                tensors[f"{module}.{matrix}.weight"] = weight.detach().clone().contiguous()
        spec = LoraSpec(
            r=self._settings.rank,
            lora_alpha=self._settings.alpha,
            target_modules=tuple(card.linears),
        )
        return LoraPart(spec, tensors)

    def _loss(self, batch: TokenBatch) -> tuple[Tensor, int]:
        """Summed cross-entropy over the answer tokens, and their number."""
        logits = self._model(input_ids=batch.ids, attention_mask=batch.mask).logits
        targets = batch.targets[:, 1:]
        answer = targets != IGNORED
        return (
            F.cross_entropy(logits[:, :-1][answer].float(), targets[answer], reduction="sum"),
            int(answer.sum()),
        )
