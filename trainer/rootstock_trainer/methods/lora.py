"""Methods `lora`, `rslora`, `dora`: low-rank updates of a base's linears, trained with PEFT.

LoRA: Hu et al., arXiv 2106.09685; rsLoRA: Kalajdzievski, arXiv 2312.03732; DoRA: Liu et al., arXiv
2402.09353. Refuses to know rows, losses and where the part will be stored.
"""

from __future__ import annotations

import torch
from peft import LoraConfig, inject_adapter_in_model
from rootstock_adapters.base_card import ARCHITECTURES, BaseCard
from rootstock_adapters.lora.spec import LoraSpec
from rootstock_wire.methods import DoraSettings, LoraSettings, RsLoraSettings
from transformers import PreTrainedModel

from rootstock_trainer.tuning import TrainedPart, Tuning, copied, prefix_of, targeted


class LoraTuning(Tuning):
    def __init__(self, model: PreTrainedModel, card: BaseCard, spec: LoraSpec) -> None:
        super().__init__(model, card)
        self._spec, self._prefix = spec, prefix_of(model, card)

    def part(self) -> TrainedPart:
        tensors = {}
        for module in self._spec.target_modules:
            layer = self.model.get_submodule(f"{self._prefix}{module}")
            for matrix in ("lora_A", "lora_B"):
                weight = getattr(layer, matrix)["default"].weight
                tensors[f"{module}.{matrix}.weight"] = copied(weight)
            if self._spec.use_dora:
                magnitude = layer.lora_magnitude_vector["default"].weight
                tensors[f"{module}.lora_magnitude_vector"] = copied(magnitude)
        return TrainedPart(self._spec, tensors)


def build(model: PreTrainedModel, card: BaseCard, settings: LoraSettings, seed: int) -> LoraTuning:
    """It begins as the base: B is zero."""
    spec = LoraSpec(
        r=settings.rank,
        lora_alpha=settings.alpha,
        use_rslora=isinstance(settings, RsLoraSettings),
        use_dora=isinstance(settings, DoraSettings),
        target_modules=targeted(settings.target_modules, settings.layers, card),
    )
    prefix = prefix_of(model, card)
    config = LoraConfig(
        r=spec.r,
        lora_alpha=settings.alpha,
        use_rslora=spec.use_rslora,
        use_dora=spec.use_dora,
        target_modules=[f"{prefix}{module}" for module in spec.target_modules],
        fan_in_fan_out=ARCHITECTURES[card.model_type].transposed,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model)
    return LoraTuning(model.eval(), card, spec)
