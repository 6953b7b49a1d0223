"""Our figures against scikit-learn's and sacrebleu's."""

from __future__ import annotations

import math

import pytest
import sacrebleu
import torch
from rootstock_trainer.evaluate import (
    accuracy,
    exact_match,
    macro_f1,
    majority_share,
    perplexity,
    text_figures,
    token_f1,
)
from sklearn.metrics import accuracy_score, f1_score


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_and_macro_f1_are_scikit_learns(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randint(0, 3, (40,), generator=generator)  # label 3 is never predicted
    actual = torch.randint(0, 4, (40,), generator=generator)
    expected = f1_score(actual, predicted, labels=range(5), average="macro", zero_division=0)
    assert accuracy(predicted, actual) == pytest.approx(accuracy_score(actual, predicted))
    assert macro_f1(predicted, actual, 5) == pytest.approx(expected)


def test_majority_share_answers_the_most_frequent_training_label() -> None:
    assert majority_share(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0, 1, 0])) == 0.4


def test_perplexity_of_a_hopeless_loss_stays_a_number() -> None:
    assert perplexity(math.log(7)) == pytest.approx(7)
    assert math.isfinite(perplexity(1e6))


def test_token_f1_is_squads_worked_by_hand() -> None:
    # "the" is dropped: 2 words of 3 said are wanted, and 2 of 2 wanted are said.
    assert token_f1("The red, red kettle.", "a red kettle") == pytest.approx(2 * 2 / (3 + 2))
    assert token_f1("nothing", "in common") == 0
    assert token_f1("...", "!") == 1 and token_f1("", "word") == 0
    assert token_f1("কেটলি থেকে পানি", "পানি কেটলি থেকে") == 1


def test_exact_match_forgives_white_space_and_nothing_else() -> None:
    assert exact_match(' {"a": 1}\n', '{"a": 1}') == 1
    assert exact_match('{"a": 1}', '{"A": 1}') == 0


def test_text_figures_are_sacrebleus() -> None:
    answers = ["the cat sat on the mat today", "a dog barked at night"]
    wanted = ["the cat sat on a mat today", "a dog barked all night"]
    figures = text_figures(answers, wanted)
    assert figures["chrf"] == pytest.approx(sacrebleu.corpus_chrf(answers, [wanted]).score)
    assert figures["bleu"] == pytest.approx(sacrebleu.corpus_bleu(answers, [wanted]).score)
    assert figures["exact_match"] == 0 and 0.7 < figures["token_f1"] < 1
    same = text_figures(wanted, wanted)
    assert same == pytest.approx({"exact_match": 1, "token_f1": 1, "chrf": 100, "bleu": 100})


def test_no_texts_have_no_figures() -> None:
    with pytest.raises(ValueError, match="no texts"):
        text_figures([], [])
