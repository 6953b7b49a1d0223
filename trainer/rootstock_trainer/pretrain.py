"""Pre-trains a small Llama-architecture base from scratch and writes a plain Hugging Face folder.

Refuses to know where the documents come from, and anything about adapters or a registry.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rootstock_trainer import pretrain_card, pretrain_data, pretrain_files, pretrain_loop
from rootstock_trainer.checkpoints import Checkpoints
from rootstock_trainer.pretrain_baselines import CountingBaselines
from rootstock_trainer.pretrain_data import Tokens
from rootstock_trainer.pretrain_settings import (
    Loss,
    PretrainError,
    PretrainReport,
    PretrainSettings,
)

_HELD_OUT_AT_MOST = 1000


def pretrain(data: Iterable[Path], out: Path, settings: PretrainSettings) -> PretrainReport:
    """Train tokenizer and model on `data`, files or folders; write weights, card, samples, log and
    held-out documents to `out`.

    The folder appears whole or not at all; a run that was interrupted goes on from the checkpoints
    beside it when the same is asked again. Same data, settings (with `steps` or one pass), thread
    count and machine give the same weights. Raises `PretrainError` for data that cannot be used,
    a budget too small, an `out` that is not empty, and a loss that stops being a number.
    """
    started = time.perf_counter(), time.process_time()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PretrainError(f"out: {out} exists and is not an empty folder; choose another")
    files = pretrain_files.files_of(data)
    digests = {name: pretrain_data.digest(file) for name, file in files.items()}
    rows = pretrain_files.read_rows(files.values())
    chance = np.random.default_rng(settings.seed)
    share = min(0.02, _HELD_OUT_AT_MOST / len(rows))
    training_rows, held_out_rows = pretrain_data.split(rows, share, chance)
    if not training_rows or not held_out_rows:
        raise PretrainError(
            "no held-out document is left that does not also occur in the training part: "
            "give more, and more varied, documents"
        )
    tokenizer = pretrain_data.train_tokenizer(training_rows, settings.vocabulary, settings.context)
    training = pretrain_data.pieces(
        pretrain_data.encode(training_rows, tokenizer), settings.context
    )
    torch.manual_seed(settings.seed)
    model = LlamaForCausalLM(pretrain_loop.shape(settings, tokenizer))
    checkpoints = _checkpoints(out, settings, digests)
    curve = pretrain_loop.train(model, training, settings, chance, checkpoints)
    held_out = [ids[: settings.context] for ids in pretrain_data.encode(held_out_rows, tokenizer)]
    report = PretrainReport(
        settings=settings,
        data=digests,
        documents=len(rows),
        held_out_documents=len(held_out),
        held_out_tokens=_targets(held_out),
        parameters=model.num_parameters(),
        layers=model.config.num_hidden_layers,
        width=model.config.hidden_size,
        steps=curve[-1].step,
        tokens=curve[-1].tokens,
        threads=torch.get_num_threads(),
        wall_seconds=round(time.perf_counter() - started[0], 1),
        cpu_seconds=round(time.process_time() - started[1], 1),
        curve=curve,
        **_losses(model, tokenizer, training, held_out),
    )
    pretrain_card.write_folder(out, model, tokenizer, report, held_out_rows)
    shutil.rmtree(checkpoints.folder, ignore_errors=True)
    return report


def _checkpoints(out: Path, settings: PretrainSettings, digests: dict[str, str]) -> Checkpoints:
    """Beside `out`, good for this data and these settings only."""
    facts = {"settings": settings.model_dump(), "data": digests}
    about = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Checkpoints(out.with_name(out.name + ".checkpoints"), about=about)


def _targets(documents: list[Tokens]) -> int:
    """How many tokens are predicted: all but each document's first."""
    return sum(len(ids) - 1 for ids in documents)


def _losses(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    training: list[Tokens],
    held_out: list[Tokens],
) -> dict[str, Loss]:
    """The held-out losses of the model and of counting, on the same tokens."""
    texts = tokenizer.batch_decode(held_out, skip_special_tokens=True)
    text_bytes = sum(len(text.encode()) for text in texts)
    unigram, trigram = CountingBaselines(training, len(tokenizer)).nats(held_out)
    nats = {
        "model": pretrain_loop.held_out_nats(model, held_out),
        "unigram": unigram,
        "trigram": trigram,
    }
    return {
        name: Loss(
            nats_per_token=round(total / _targets(held_out), 4),
            bits_per_byte=round(total / math.log(2) / text_bytes, 4),
        )
        for name, total in nats.items()
    }


def main(
    data: Annotated[list[Path], typer.Option(help="File or folder with documents; repeatable.")],
    out: Annotated[Path, typer.Option(help="The new folder for the base.")],
    params: Annotated[int, typer.Option(help="The most parameters the base may have.")] = 4_000_000,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps; default: one pass.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Wall clock instead of steps.")] = None,
    seed: Annotated[int, typer.Option(help="Decides split, order and first weights.")] = 0,
    made_by: Annotated[str, typer.Option(help="How the data was made, for the card.")] = "",
) -> None:
    """Pre-train a small base from scratch on documents."""
    settings = PretrainSettings(
        parameters=params, steps=steps, minutes=minutes, seed=seed, data_command=made_by
    )
    try:
        report = pretrain(data, out, settings)
    except PretrainError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{out}: {report.parameters:,} parameters, {report.steps} steps")
    for name, loss in (
        ("model", report.model),
        ("trigram", report.trigram),
        ("unigram", report.unigram),
    ):
        typer.echo(f"  {name:8} {loss.nats_per_token:.3f} nats/token, {loss.bits_per_byte:.3f} bpb")


if __name__ == "__main__":
    typer.run(main)
