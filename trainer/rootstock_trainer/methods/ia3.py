"""Method `ia3`: factors on keys, values and the feed-forward's inside, trained with PEFT.

Liu et al., arXiv 2205.05638. Refuses to know rows, losses and where the part will be stored.
"""

from __future__ import annotations

from peft import IA3Config, inject_adapter_in_model
from rootstock_adapters.base_card import ARCHITECTURES, BaseCard
from rootstock_adapters.bottleneck.spec import FEED_FORWARD_OUTPUTS
from rootstock_adapters.ia3.spec import Ia3Spec
from rootstock_adapters.layers import inside_layer
from rootstock_wire.methods import Ia3Settings
from transformers import PreTrainedModel

from rootstock_trainer.tuning import TrainedPart, Tuning, copied, prefix_of, targeted

# The linears that make keys and values, as architectures name them; some make queries with them.
_KEYS_VALUES = frozenset({
    "k_proj", "v_proj",  # Llama, Mistral, Qwen, Gemma, Phi, OPT, M2M100
    "key", "value",  # BERT, RoBERTa, ELECTRA, ALBERT
    "k_lin", "v_lin",  # DistilBERT
    "k", "v",  # T5
    "c_attn",  # GPT-2
    "query_key_value",  # GPT-NeoX
    "Wqkv",  # ModernBERT
})  # fmt: skip


class Ia3Tuning(Tuning):
    def __init__(self, model: PreTrainedModel, card: BaseCard, spec: Ia3Spec) -> None:
        super().__init__(model, card)
        self._spec, self._prefix = spec, prefix_of(model, card)

    def part(self) -> TrainedPart:
        tensors = {
            f"{module}.ia3_l": copied(
                self.model.get_submodule(f"{self._prefix}{module}").ia3_l["default"]
            )
            for module in self._spec.target_modules
        }
        return TrainedPart(self._spec, tensors)


def build(model: PreTrainedModel, card: BaseCard, settings: Ia3Settings, seed: int) -> Ia3Tuning:
    """It begins as the base: every factor is one, so no seed is involved."""
    names = settings.target_modules
    modules = targeted("all-linear" if names is None else names, settings.layers, card)
    if names is None:
        modules = tuple(m for m in modules if _is_inner(m) or m.rpartition(".")[2] in _KEYS_VALUES)
    inward = tuple(module for module in modules if _is_inner(module))
    spec = Ia3Spec(target_modules=modules, feedforward_modules=inward)
    prefix = prefix_of(model, card)
    config = IA3Config(
        target_modules=[f"{prefix}{module}" for module in modules],
        feedforward_modules=[f"{prefix}{module}" for module in inward],
        fan_in_fan_out=ARCHITECTURES[card.model_type].transposed,
    )
    inject_adapter_in_model(config, model)
    return Ia3Tuning(model.eval(), card, spec)


def _is_inner(module: str) -> bool:
    inside = inside_layer(module)
    return inside is not None and inside[1] in FEED_FORWARD_OUTPUTS
