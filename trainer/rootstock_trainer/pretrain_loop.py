"""The model's shape, the training loop and the held-out loss, on token rows alone.

Knows no files, no text and no tokenizer beyond its special ids.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rootstock_trainer.checkpoints import Checkpoints, State
from rootstock_trainer.pretrain_data import Tokens, batches
from rootstock_trainer.pretrain_settings import CurvePoint, PretrainError, PretrainSettings

_CURVE_POINTS = 60
_STEPS_TO_TIME = 10
# On CPU torch's fused attention goes back through short rows more slowly than plain products do.
_FUSED_FROM = 256


def shape(settings: PretrainSettings, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The Llama configuration that fills the parameter budget best, near 64 channels per layer.

    Tied embeddings. Raises `PretrainError` when not even one layer fits.
    """
    entries = len(tokenizer)
    best, chosen = -math.inf, None
    for width in range(32, 1025, 32):
        inner = round(width * 8 / 3 / 32) * 32
        for layers in range(1, 25):
            size = entries * width + layers * (4 * width**2 + 3 * width * inner + 2 * width) + width
            ratio = abs(math.log2(width / layers / 64))
            score = size / settings.parameters - 0.1 * ratio
            if size <= settings.parameters and score > best:
                best, chosen = score, (width, inner, layers)
    if chosen is None:
        raise PretrainError(
            f"parameters: {settings.parameters} do not hold one layer over {entries} tokens; "
            "raise the budget or lower the vocabulary"
        )
    width, inner, layers = chosen
    heads = width // 64 if width % 64 == 0 else width // 32
    return LlamaConfig(
        vocab_size=entries,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class _MasterWeights:
    """AdamW on float32 copies of a model's weights; the model itself may compute in bfloat16."""

    def __init__(self, model: LlamaForCausalLM, settings: PretrainSettings) -> None:
        self._live = list(model.parameters())
        self._masters = [p.detach().clone().float() for p in self._live]
        # Parameters only: rounding the rotary frequencies too would train other positions than
        # the ones a loaded model computes.
        for live in self._live:
            live.data = live.data.to(getattr(torch, settings.dtype))
        matrices = [p for p in self._masters if p.dim() > 1]
        vectors = [p for p in self._masters if p.dim() == 1]
        self._adamw = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": settings.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )

    def step(self, learning_rate: float) -> None:
        """Clip the gradients to norm 1, step, and copy the result back into the model."""
        for master, live in zip(self._masters, self._live, strict=True):
            master.grad = live.grad.float()
            live.grad = None
        torch.nn.utils.clip_grad_norm_(self._masters, 1.0)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self._copy()

    @torch.no_grad()
    def _copy(self) -> None:
        for master, live in zip(self._masters, self._live, strict=True):
            live.copy_(master)

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the next step depends on."""
        state = {f"master.{i}": each for i, each in enumerate(self._masters)}
        for i, master in enumerate(self._masters):
            for name, value in self._adamw.state[master].items():
                state[f"{name}.{i}"] = value
        return state

    def load(self, state: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for i, master in enumerate(self._masters):
                master.copy_(state[f"master.{i}"])
                self._adamw.state[master] = {
                    name: state[f"{name}.{i}"] for name in ("step", "exp_avg", "exp_avg_sq")
                }
        self._copy()


class _Curve:
    """The training loss, averaged over the steps between two samples."""

    def __init__(self) -> None:
        self.samples: list[CurvePoint] = []
        self._recent: list[float] = []
        self._begun = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._begun

    def add(self, loss: float, step: int, steps: int, tokens: int) -> bool:
        """Take one step's loss in nats per token; true when a sample was made of it."""
        self._recent.append(loss)
        if step % max(1, steps // _CURVE_POINTS) and step < steps:
            return False
        mean = round(sum(self._recent) / len(self._recent), 4)
        seconds = round(self.seconds(), 1)
        self.samples.append(CurvePoint(step=step, tokens=tokens, seconds=seconds, loss=mean))
        self._recent.clear()
        return True

    def state(self) -> dict[str, Any]:
        samples = [point.model_dump() for point in self.samples]
        return {"samples": samples, "recent": self._recent, "seconds": self.seconds()}

    def load(self, state: dict[str, Any]) -> None:
        self.samples = [CurvePoint(**point) for point in state["samples"]]
        self._recent = list(state["recent"])
        self._begun = time.perf_counter() - state["seconds"]


class _Run:
    """Where a pre-training is, and what a checkpoint of it holds."""

    def __init__(
        self, model: LlamaForCausalLM, passes: Sequence[Tokens], settings: PretrainSettings
    ) -> None:
        self.weights, self.curve = _MasterWeights(model, settings), _Curve()
        self.steps = settings.steps or len(passes)
        self.step, self.tokens = 0, 0
        self._model, self._passes, self._settings = model, passes, settings

    def advance(self) -> float:
        """One optimiser step; its loss. Raises `PretrainError` where that is not finite."""
        pad = self._model.config.pad_token_id
        batch = torch.from_numpy(self._passes[self.step % len(self._passes)])
        fused = batch.shape[1] >= _FUSED_FROM
        self._model.set_attn_implementation("sdpa" if fused else "eager")
        # Padding is at the right and attention causal, so leaving it out of the loss is enough.
        labels = batch.masked_fill(batch == pad, -100)
        loss = self._model(input_ids=batch, labels=labels, use_cache=False).loss
        value: float = loss.item()
        peak = self._settings.learning_rate
        if not math.isfinite(value):
            raise PretrainError(
                f"the loss became {value} at step {self.step + 1}: "
                f"lower the learning rate (now {peak})"
            )
        loss.backward()
        self.weights.step(peak * _schedule(self.step, self.steps))
        self.step, self.tokens = self.step + 1, self.tokens + int((batch != pad).sum())
        if self._settings.minutes and self.step == _STEPS_TO_TIME:
            per_step = self.curve.seconds() / self.step
            self.steps = max(self.step + 1, int(self._settings.minutes * 60 / per_step))
        return value

    def state(self) -> State:
        facts = {"done": self.step, "tokens": self.tokens, "steps": self.steps}
        return State({**facts, "curve": self.curve.state()}, self.weights.state())

    def load(self, state: State) -> None:
        facts = state.facts
        self.step, self.tokens, self.steps = facts["done"], facts["tokens"], facts["steps"]
        self.curve.load(facts["curve"])
        self.weights.load(state.tensors)


def train(
    model: LlamaForCausalLM,
    documents: list[Tokens],
    settings: PretrainSettings,
    chance: np.random.Generator,
    checkpoints: Checkpoints,
) -> list[CurvePoint]:
    """Train in place on the documents `[tokens]` each; returns samples of the loss curve.

    Goes on from the last whole checkpoint. Raises `PretrainError` as soon as the loss is not a
    finite number; the checkpoints, which lead there, are removed then.
    """
    run = _Run(model, batches(documents, settings, model.config.pad_token_id, chance), settings)
    model.train()
    with _progress() as progress:
        if (state := checkpoints.load()) is not None:
            run.load(state)
            progress.console.print(f"going on after step {run.step}")
        bar = progress.add_task("pre-training", total=run.steps, completed=run.step, loss="")
        while run.step < run.steps:
            try:
                loss = run.advance()
            except PretrainError:
                shutil.rmtree(checkpoints.folder, ignore_errors=True)
                raise
            # A log file shows no bar; it gets a line for each sample instead.
            sampled = run.curve.add(loss, run.step, run.steps, run.tokens)
            if sampled and not progress.console.is_terminal:
                line = f"step {run.step} of {run.steps}: {run.curve.samples[-1]}"
                progress.console.print(line, soft_wrap=True)
            progress.update(bar, completed=run.step, total=run.steps, loss=f"loss {loss:.3f}")
            if checkpoints.due() and run.step < run.steps:
                checkpoints.save(run.state())
    model.set_attn_implementation("sdpa")
    model.eval()
    return run.curve.samples


def _schedule(step: int, steps: int) -> float:
    """Share of the peak rate: linear warmup over 100 steps (or a tenth), cosine down to 2 %."""
    warmup = min(100, steps // 10 + 1)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


@torch.no_grad()
def held_out_nats(model: LlamaForCausalLM, documents: list[Tokens]) -> float:
    """Total loss in nats of all tokens after each document's first, each document by itself."""
    pad = model.config.pad_token_id
    total = 0.0
    by_length = sorted(documents, key=len)
    for start in range(0, len(by_length), 16):
        group = [torch.from_numpy(ids) for ids in by_length[start : start + 16]]
        batch = torch.nn.utils.rnn.pad_sequence(group, batch_first=True, padding_value=pad)
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].float()
        # No document contains the padding token, so ignoring it ignores the padding only.
        total += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch[:, 1:].flatten(), ignore_index=pad, reduction="sum"
        ).item()
    return total
