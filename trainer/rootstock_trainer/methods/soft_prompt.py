"""Methods `soft_prompt` and `prefix`: learned tokens before the text, trained with PEFT.

Prompt tuning: Lester et al., arXiv 2104.08691; prefix tuning: Li and Liang, arXiv 2101.00190.
Refuses to know rows, losses and where the part will be stored.
"""

from __future__ import annotations

import warnings

import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.soft_prompt.spec import TENSOR, SoftPromptSpec
from rootstock_wire.methods import PrefixSettings, SoftPromptSettings
from torch import Tensor
from transformers import PreTrainedModel

from rootstock_trainer.tokens import TokenBatch
from rootstock_trainer.tuning import TrainedPart, Tuning, copied

PEFT_TASKS = {"generate": "CAUSAL_LM", "encode": "FEATURE_EXTRACTION"}


class SoftPromptTuning(Tuning):
    def __init__(self, model: PeftModel, card: BaseCard, spec: SoftPromptSpec) -> None:
        super().__init__(model, card)
        self._spec = spec
        self.virtual_tokens = spec.num_virtual_tokens

    def hidden(self, batch: TokenBatch) -> Tensor:
        out = self.model(input_ids=batch.ids, attention_mask=batch.mask, output_hidden_states=True)
        # The last of them is behind the final norm.
        last: Tensor = out.hidden_states[-1]
        return last[:, -batch.ids.shape[1] :]

    def part(self) -> TrainedPart:
        learned = self.model.get_prompt_embedding_to_save("default")
        return TrainedPart(self._spec, {TENSOR: copied(learned)})


def build(
    model: PreTrainedModel, card: BaseCard, settings: SoftPromptSettings, seed: int
) -> SoftPromptTuning:
    """It begins as tokens of the vocabulary, drawn by `seed`: better than noise (Lester et al.,
    section 3.2; Li and Liang, section 7.4)."""
    prefix = isinstance(settings, PrefixSettings)
    count = settings.num_virtual_tokens
    spec = SoftPromptSpec(
        method="prefix_tuning" if prefix else "prompt_tuning", num_virtual_tokens=count
    )
    spec.tensor_shapes(card)  # the bases on which it is not served are refused here
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(card.vocab_size, (1, count), generator=generator)
    begun = _keys_values(model, tokens) if prefix else _embeddings(model, tokens)
    embedding = model.get_input_embeddings()
    sizes = {} if prefix else {"token_dim": begun.shape[1], "num_attention_heads": 1}
    make = PrefixTuningConfig if prefix else PromptTuningConfig
    config = make(task_type=PEFT_TASKS[card.task], num_virtual_tokens=count, **sizes)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)
        # PEFT still asks transformers for a property under its old name.
        warnings.simplefilter("ignore", FutureWarning)
        tuned = get_peft_model(model, config).eval()
    # PEFT finds a base's embedding by its size, which another matrix may have, too.
    tuned.word_embeddings = embedding
    with torch.no_grad():
        tuned.prompt_encoder["default"].embedding.weight.copy_(begun)
    return SoftPromptTuning(tuned, card, spec)


@torch.no_grad()
def _embeddings(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """[1, P] → [P, D], at the output of the input embedding."""
    embedded: Tensor = model.get_input_embeddings()(tokens)
    return embedded[0]


@torch.no_grad()
def _keys_values(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    """[1, P] → [P, layers·2·H·D]: what the base's cache holds of these tokens, laid out as PEFT
    reads it. A layer that keeps a window only gives its last ones, from the first on again."""
    cache = model.base_model(input_ids=tokens, use_cache=True).past_key_values
    count, rows = tokens.shape[1], []
    for layer in cache.layers:
        for states in (layer.keys, layer.values):  # [1, H, ≤P, D]
            flat = states[0].transpose(0, 1).flatten(1)
            rows.append(flat[torch.arange(count) % len(flat)])
    return torch.cat(rows, dim=1)
