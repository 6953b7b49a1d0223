"""A job of a method that trains by gradient: rows on disk, a tuned base, and what came of it.

Refuses to know jobs, the registry and any method by name.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from rootstock_wire.methods import GradientSettings

from rootstock_trainer.answering import question
from rootstock_trainer.base import Base
from rootstock_trainer.data import Rows
from rootstock_trainer.encoding import ChatEncoder, Encoder, LabelEncoder, SourceEncoder
from rootstock_trainer.errors import BadSpec
from rootstock_trainer.evaluate import accuracy, macro_f1, majority_share, perplexity
from rootstock_trainer.forgetting import general_text
from rootstock_trainer.gradient import GradientTraining
from rootstock_trainer.judging import Judge
from rootstock_trainer.methods import table
from rootstock_trainer.objectives import Answers, Labels, Objective
from rootstock_trainer.outcome import Made, Outcome, Place, Telling, new_part, row_counts, sizes
from rootstock_trainer.spec import TrainSpec
from rootstock_trainer.split import split_keys
from rootstock_trainer.tokens import TokenStore
from rootstock_trainer.tuning import TrainedPart, Untouched

WATCHED_SHARE = 0.1
MAX_WATCHED = 256


def run(spec: TrainSpec, base: Base, rows: Rows, place: Place, tell: Telling) -> Outcome:
    """Raises BadSpec where base, rows and method do not go together, TrainingFailed where the loss
    breaks."""
    settings = spec.settings
    assert isinstance(settings, GradientSettings)
    _check_fit(spec, base, rows)
    virtual = int(getattr(settings, "num_virtual_tokens", 0))
    store = _stored(spec, settings, base, rows, place.home, virtual)
    train, watched = _watched(settings, rows, spec.seed)
    offset = 0 if rows.validation is None else len(rows.data.keys)
    held_out = (rows.held_out + offset).tolist()
    model = base.model() if place.member is None else place.member.model(base)
    objective = _objective(base, rows, spec.seed)
    judge = _judge(spec, base, objective, store, held_out)
    tell.note(judge.note)
    tell("evaluating the base")
    figures = judge.before(model)
    if isinstance(objective, Answers):
        plain = GradientTraining(
            Untouched(model, base.card), objective, GradientSettings(), spec.seed
        )
        figures |= _loss_figures("base_", plain.mean_loss(store, held_out))
    tuning = table.build(spec.method, model, base.card, settings, spec.seed)
    if place.member is not None:
        tuning = place.member.share(tuning)
    training = GradientTraining(tuning, objective, settings, spec.seed)
    checkpoints = place.checkpoints
    if checkpoints is not None:
        checkpoints.about = rows.data.digest
    begun = time.perf_counter()
    for step in training.run(store, train, watched, checkpoints):
        tell.step(step)
    figures["train_seconds"] = time.perf_counter() - begun
    tell("evaluating")
    figures |= _figures(training, store, train, held_out) | judge.after(
        tuning.model, tuning.virtual_tokens
    )
    parts = training.parts()
    figures |= row_counts(train, held_out) | sizes(_numbers(parts), base)
    made = Made("", [new_part(*part) for part in parts], figures)
    return Outcome([made], rows.data.digest)


def _judge(
    spec: TrainSpec, base: Base, objective: Objective, store: TokenStore, held_out: Sequence[int]
) -> Judge:
    answers = isinstance(objective, Answers)
    questions = [question(store[i]) for i in held_out] if answers else []
    return Judge(base, questions, general_text(base, spec.general), spec.bars)


def _watched(settings: GradientSettings, rows: Rows, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on, and rows to look at meanwhile.

    Early stopping is a choice, so it has rows of its own: a tenth of those to train on. Without it
    a validation file is watched, which chooses nothing.
    """
    if settings.early_stopping is not None:
        own, watched = split_keys(rows.data.keys[rows.train], None, seed, WATCHED_SHARE)
        return rows.train[own].tolist(), rows.train[watched].tolist()
    if rows.validation is None:
        return rows.train.tolist(), []
    first = len(rows.data.keys)
    count = len(rows.held_out)
    every = max(1, count // MAX_WATCHED)
    return rows.train.tolist(), list(range(first, first + count, every))


def _figures(
    training: GradientTraining, store: TokenStore, train: Sequence[int], held_out: Sequence[int]
) -> dict[str, float]:
    """What the trained model does on rows that it was not trained on: the place for every figure
    of quality, while the model is at hand."""
    loss = training.mean_loss(store, held_out)
    objective = training.objective
    if not isinstance(objective, Labels):
        return _loss_figures("", loss)
    logits, actual = training.label_logits(store, held_out)
    predicted = logits.argmax(-1)
    seen = torch.tensor([target for i in train for target in store[i].targets if target >= 0])
    return {
        "eval_loss": loss,
        "accuracy": accuracy(predicted, actual),
        "macro_f1": macro_f1(predicted, actual, len(objective.spec.labels)),
        "majority_accuracy": majority_share(seen, actual),
    }


def _loss_figures(prefix: str, loss: float) -> dict[str, float]:
    return {f"{prefix}eval_loss": loss, f"{prefix}perplexity": perplexity(loss)}


def _numbers(parts: Sequence[TrainedPart]) -> int:
    return sum(tensor.numel() for part in parts for tensor in part.tensors.values())


def _check_fit(spec: TrainSpec, base: Base, rows: Rows) -> None:
    task, card = rows.data.task, base.card
    if task == "generate" and card.task == "encode":
        raise BadSpec(
            f"method: {spec.method} learns answers here, and base {card.name} is an encoder "
            f"({card.model_type}), which writes none: use method head, or rows with "
            f"{spec.text_column} and {spec.label_column}"
        )
    if task != "generate" and card.task == "text2text":
        raise BadSpec(
            f"method: {spec.method} learns answers on base {card.name}, which reads one text and "
            "writes another, and the rows have labels: use method head"
        )


def _stored(
    spec: TrainSpec,
    settings: GradientSettings,
    base: Base,
    rows: Rows,
    home: Path,
    virtual: int,
) -> TokenStore:
    """The rows of both files, those of the validation last."""
    if virtual >= base.card.context_length:
        raise BadSpec(
            f"hyperparameters.num_virtual_tokens: {virtual} leave no room in the base's context "
            f"of {base.card.context_length} tokens"
        )
    room = base.card.context_length - virtual
    limit = min(room, settings.max_length or room)
    encoder = _encoder(spec, base, rows, limit, settings.max_length is not None)
    own = encoder.rows(rows.data.rows())
    more = encoder.rows(rows.validation.rows()) if rows.validation is not None else iter(())
    return TokenStore(chain(own, more), home / "tmp")


def _encoder(spec: TrainSpec, base: Base, rows: Rows, limit: int, cut: bool) -> Encoder:
    tokenizer = base.tokenizer()
    if rows.data.task != "generate":
        return LabelEncoder(tokenizer, limit, spec.data, cut, rows.data.labels[0])
    if base.card.task == "text2text":
        return SourceEncoder(tokenizer, limit, spec.data, cut, base.card)
    return ChatEncoder(tokenizer, limit, spec.data, cut)


def _objective(base: Base, rows: Rows, seed: int) -> Objective:
    if rows.data.task == "generate":
        return Answers()
    return Labels(base.card, rows.data.labels[0], rows.data.task == "token-classify", seed)
