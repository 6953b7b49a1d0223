"""The peers, in this process: Hugging Face `generate`, and PEFT's `adapter_names` on top of it.

Both get their best case: static batches of equal length, no server in front. Refuses to know ours.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.workload import MODES, Ask, Mode, Run, WrongAnswer

BASE_ROW = "__base__"  # PEFT's name for a row without an adapter


class Static:
    """Batches of as many requests as there are callers, one after the other."""

    def __init__(self, model: PreTrainedModel | PeftModel, new_tokens: int) -> None:
        self._model, self._new_tokens = model.eval(), new_tokens
        # Nothing may end an answer early; without an end token none is looked for.
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0

    def run(self, asks: Sequence[Ask], concurrency: int) -> Run:
        batches = [asks[i : i + concurrency] for i in range(0, len(asks), concurrency)]
        begun = time.perf_counter()
        tokens = sum(self._batch(batch) for batch in batches)
        return Run(time.perf_counter() - begun, tokens)

    @torch.inference_mode()
    def _batch(self, asks: Sequence[Ask]) -> int:
        ids = torch.tensor([ask.prompt for ask in asks])
        out = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=self._new_tokens,
            do_sample=False,
            **self._options(asks),
        )
        rows, new_tokens = len(out), int(out.shape[1]) - ids.shape[1]
        if (rows, new_tokens) != (len(asks), self._new_tokens):
            raise WrongAnswer(f"{rows} rows of {new_tokens} tokens came, not {self._new_tokens}")
        return rows * new_tokens

    def _options(self, asks: Sequence[Ask]) -> dict[str, Any]:
        return {}


class Generate(Static):
    """transformers' own `generate`; it knows no adapters."""

    name = "transformers"
    modes: tuple[Mode, ...] = ("base",)

    def __init__(self, base: Path, new_tokens: int) -> None:
        super().__init__(_load(base), new_tokens)


class AdapterNames(Static):
    """PEFT: `generate` with one adapter's name per row."""

    name = "peft"
    modes: tuple[Mode, ...] = tuple(MODES)

    def __init__(self, base: Path, adapters: Mapping[str, Path], new_tokens: int) -> None:
        (first, folder), *others = adapters.items()
        model = PeftModel.from_pretrained(_load(base), folder, adapter_name=first)
        for name, folder in others:
            model.load_adapter(folder, adapter_name=name)
        super().__init__(model, new_tokens)

    def _options(self, asks: Sequence[Ask]) -> dict[str, Any]:
        return {"adapter_names": [ask.adapter or BASE_ROW for ask in asks]}


def _load(base: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    return model
