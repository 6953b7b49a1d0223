"""A job of method `head`: features once, then a head for each label column.

Refuses to know jobs and the registry.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rootstock_adapters.head.spec import HeadSpec
from rootstock_wire.methods import HeadSettings
from torch import Tensor

from rootstock_trainer.bars import bar_figures, readable
from rootstock_trainer.base import Base
from rootstock_trainer.calibration import (
    calibrated_error,
    expected_calibration_error,
    temperature,
)
from rootstock_trainer.data import Rows
from rootstock_trainer.encoding import LabelEncoder
from rootstock_trainer.errors import BadSpec
from rootstock_trainer.evaluate import accuracy, macro_f1, majority_share
from rootstock_trainer.features import features_for
from rootstock_trainer.forgetting import UNTOUCHED
from rootstock_trainer.methods import head
from rootstock_trainer.outcome import Made, Outcome, Telling, new_part, row_counts, sizes
from rootstock_trainer.spec import TrainSpec


def run(spec: TrainSpec, base: Base, rows: Rows, home: Path, tell: Telling) -> Outcome:
    """Raises BadSpec where the rows have no labels, TrainingFailed where a head does not come
    out."""
    if rows.data.task == "generate":
        raise BadSpec(
            "method: head learns labels, and the rows are texts with answers: give rows with "
            f"{spec.text_column} and {spec.label_column}, or use another method"
        )
    settings = spec.settings
    assert isinstance(settings, HeadSettings)
    if rows.data.task == "token-classify":
        return Outcome([_words_head(spec, settings, base, rows, tell)], rows.data.digest)
    features = _features(settings, base, rows, home, tell)
    made = []
    for column, name in enumerate(rows.data.columns.labels):
        targets = torch.from_numpy(rows.data.targets[:, column]).long()
        measured = targets
        if rows.validation is not None:
            own = torch.from_numpy(rows.validation.targets[:, column]).long()
            measured = torch.cat([targets, own])
        held_out = _held_out(rows)
        begun = time.perf_counter()
        weights = head.train(
            features[rows.train], targets[rows.train], len(rows.data.labels[column]), settings,
            spec.seed,
        )  # fmt: skip
        trained = time.perf_counter()
        suffix = name if len(rows.data.columns.labels) > 1 else ""
        labels = rows.data.labels[column]
        sides = _Sides(targets[rows.train], features[held_out], measured[held_out])
        one = _made(suffix, labels, settings, weights, base, sides)
        seconds = {"train_seconds": trained - begun}
        bars: dict[str, float] = {}
        if spec.bars:
            names = _named(settings, base, labels, home)
            bars = bar_figures(
                sides.features, sides.targets, features[rows.train], sides.fitted, names, spec.seed
            )
        made.append(one._replace(evaluation={**one.evaluation, **bars, **seconds}))
    return Outcome(made, rows.data.digest)


def _named(settings: HeadSettings, base: Base, labels: Sequence[str], home: Path) -> Tensor:
    """[labels, D]: the labels' names, read as texts are."""
    texts = readable(labels)
    return features_for(base, texts, home / "features", lambda *_: None, settings.pooling).rows


class _Sides:
    """What a head was fitted to, and what it is measured on."""

    def __init__(self, fitted: Tensor, features: Tensor, targets: Tensor) -> None:
        self.fitted, self.features, self.targets = fitted, features, targets


def _features(settings: HeadSettings, base: Base, rows: Rows, home: Path, tell: Telling) -> Tensor:
    """[N, D], of the validation rows behind those of the data."""
    texts = [row.question for row in rows.data.rows()]
    if rows.validation is not None:
        texts += [row.question for row in rows.validation.rows()]
    found = features_for(
        base,
        texts,
        home / "features",
        lambda done, total: tell("embedding", done, total),
        settings.pooling,
    )
    tell.note(found.note)
    tell.note(UNTOUCHED)
    tell("training")
    return found.rows


def _held_out(rows: Rows) -> Tensor:
    offset = 0 if rows.validation is None else len(rows.data.keys)
    return torch.from_numpy(rows.held_out) + offset


def _made(
    suffix: str,
    labels: tuple[str, ...],
    settings: HeadSettings,
    weights: head.HeadWeights,
    base: Base,
    sides: _Sides,
    per_token: bool = False,
) -> Made:
    logits, targets = weights.logits(sides.features), sides.targets
    cooled = weights.cooled(temperature(logits, targets))
    card = base.card
    spec = HeadSpec(
        pooling="none" if per_token else settings.pooling or card.pooling,
        normalize=card.normalize,
        labels=labels,
        hidden=settings.hidden,
        activation=settings.activation,
    )
    tensors = cooled.tensors()
    predicted = logits.argmax(-1)
    evaluation = {
        "forgetting": 0.0,  # by construction: a head changes nothing of the base
        "accuracy": accuracy(predicted, targets),
        "macro_f1": macro_f1(predicted, targets, len(labels)),
        "majority_accuracy": majority_share(sides.fitted, targets),
        "ece": expected_calibration_error(logits, targets),
        "ece_calibrated": calibrated_error(logits, targets),
        **row_counts(range(len(sides.fitted)), range(len(targets))),
        **sizes(sum(tensor.numel() for tensor in tensors.values()), base),
    }
    return Made(suffix, [new_part(spec, tensors)], evaluation)


def _words_head(
    spec: TrainSpec, settings: HeadSettings, base: Base, rows: Rows, tell: Telling
) -> Made:
    """A head on each token's own hidden state. These features are not stored: there is one for
    each token, and a file of them would be larger than most bases."""
    (labels,) = rows.data.labels
    texts = [(row, False) for row in rows.data.rows()]
    if rows.validation is not None:
        texts += [(row, True) for row in rows.validation.rows()]
    encoder = LabelEncoder(base.tokenizer(), base.card.context_length, spec.data, True, labels)
    targets = [row.targets for row in encoder.rows(row for row, _ in texts)]
    hidden: list[Tensor] = [torch.empty(0)] * len(texts)
    done = 0
    for batch, states in base.embed([row.question for row, _ in texts], "none"):
        for index, own in zip(batch, states, strict=True):
            hidden[index] = own[: len(targets[index])]
        done += len(batch)
        tell("embedding", done, len(texts))
    tell("training")

    def side(indices: list[int]) -> tuple[Tensor, Tensor]:
        flat = torch.tensor([target for i in indices for target in targets[i]])
        return torch.cat([hidden[i] for i in indices])[flat >= 0], flat[flat >= 0]

    fitted, actual = side(rows.train.tolist())
    weights = head.train(fitted, actual, len(labels), settings, spec.seed)
    measured, wanted = side(_held_out(rows).tolist())
    return _made(
        "", labels, settings, weights, base, _Sides(actual, measured, wanted), per_token=True
    )
