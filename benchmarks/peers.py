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
from rootstock_cli.bench.traffic import Ask
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

from benchmarks.workload import BASE_NAME, Run, WrongAnswer, streamed

BASE_ROW = "__base__"  # PEFT's name for a row without an adapter


class Clock(StoppingCriteria):  # type: ignore[misc]
    """Stops nothing; notes when each token of a batch was there."""

    def __init__(self) -> None:
        self.ticks: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.ticks.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Static:
    """Batches of as many requests as there are callers, one after the other."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        self._model = model.eval()
        # Nothing may end an answer early; without an end token none is looked for.
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0

    def run(self, asks: Sequence[Ask], concurrency: int) -> Run:
        """Time all of `asks`. Raises WrongAnswer where a token is missing."""
        tokens, first, between = 0, list[float](), list[float]()
        begun = time.perf_counter()
        for start in range(0, len(asks), concurrency):
            batch, clock, sent = asks[start : start + concurrency], Clock(), time.perf_counter()
            tokens += self._batch(batch, clock)
            first += [clock.ticks[0] - sent] * len(batch)
            pairs = zip(clock.ticks, clock.ticks[1:], strict=False)
            between += [later - earlier for earlier, later in pairs]
        return streamed(tokens / (time.perf_counter() - begun), first, between)

    @torch.inference_mode()
    def _batch(self, asks: Sequence[Ask], clock: Clock) -> int:
        ids = torch.tensor([ask.prompt for ask in asks])
        wanted = asks[0].new_tokens
        out = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=wanted,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([clock]),
            **self._options(asks),
        )
        rows, new_tokens = len(out), int(out.shape[1]) - ids.shape[1]
        if (rows, new_tokens) != (len(asks), wanted):
            raise WrongAnswer(f"{rows} rows of {new_tokens} tokens came, not {wanted}")
        return rows * new_tokens

    def _options(self, asks: Sequence[Ask]) -> dict[str, Any]:
        return {}


class Generate(Static):
    """transformers' own `generate`; it knows no adapters."""

    def __init__(self, base: Path) -> None:
        super().__init__(_load(base))


class AdapterNames(Static):
    """PEFT: `generate` with one adapter's name per row."""

    def __init__(self, base: Path, adapters: Mapping[str, Path]) -> None:
        (first, folder), *others = adapters.items()
        model = PeftModel.from_pretrained(_load(base), folder, adapter_name=first)
        for name, folder in others:
            model.load_adapter(folder, adapter_name=name)
        super().__init__(model)

    def _options(self, asks: Sequence[Ask]) -> dict[str, Any]:
        names = [BASE_ROW if ask.model == BASE_NAME else ask.model for ask in asks]
        return {"adapter_names": names}


def _load(base: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    return model
