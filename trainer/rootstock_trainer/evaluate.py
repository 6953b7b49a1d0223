"""The figures a version is registered with: how well it does on rows that it was not trained on.

Refuses to know how the predictions were made.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor


def accuracy(predicted: Tensor, actual: Tensor) -> float:
    """Share of equal entries of two integer tensors [N]."""
    return (predicted == actual).double().mean().item()


def macro_f1(predicted: Tensor, actual: Tensor, labels: int) -> float:
    """Mean over labels of the F1 score, [N] each; a label that is nowhere counts as 0, as in
    scikit-learn's `f1_score(average="macro", labels=range(labels), zero_division=0)`."""
    scores = []
    for label in range(labels):
        hits = ((predicted == label) & (actual == label)).sum().item()
        claimed, present = (predicted == label).sum().item(), (actual == label).sum().item()
        scores.append(2 * hits / (claimed + present) if claimed + present else 0.0)
    return sum(scores) / labels


def majority_share(train: Tensor, held_out: Tensor) -> float:
    """Accuracy of always answering the label most frequent in training: the figure to beat."""
    most_frequent = torch.bincount(train).argmax()
    return accuracy(most_frequent.expand_as(held_out), held_out)


def perplexity(loss: float) -> float:
    """exp of the mean loss per token in nats; the largest float where that would overflow."""
    return math.exp(min(loss, 700.0))


def text_figures(answers: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """What two equally long lists of texts have in common: `exact_match` and `token_f1` as shares
    from 0 to 1, `chrf` and `bleu` as sacrebleu gives them, from 0 to 100, over the whole list."""
    # It takes a moment to import, and most figures do without.
    from sacrebleu import BLEU, CHRF

    if not wanted:
        raise ValueError("no texts to compare")
    pairs = list(zip(answers, wanted, strict=True))
    return {
        "exact_match": sum(exact_match(*pair) for pair in pairs) / len(pairs),
        "token_f1": sum(token_f1(*pair) for pair in pairs) / len(pairs),
        "chrf": CHRF().corpus_score(list(answers), [list(wanted)]).score,
        # Without effective order, a list of answers shorter than four words would always be 0.
        "bleu": BLEU(effective_order=True).corpus_score(list(answers), [list(wanted)]).score,
    }


def exact_match(answer: str, wanted: str) -> float:
    """1 where the texts are equal but for white space around them, as Hugging Face's metric
    `exact_match` counts; format, case and punctuation are part of an answer."""
    return float(answer.strip() == wanted.strip())


def token_f1(answer: str, wanted: str) -> float:
    """SQuAD's F1 (Rajpurkar et al., arXiv 1606.05250, evaluate-v1.1): words in common, each as
    often as in both, after case, ASCII punctuation and English articles are dropped. Two texts
    without a word are equal, as in version 2.0."""
    said, meant = _words(answer), _words(wanted)
    if not said or not meant:
        return float(said == meant)
    common = (Counter(said) & Counter(meant)).total()
    return 2 * common / (len(said) + len(meant))


def _words(text: str) -> list[str]:
    plain = "".join(letter for letter in text.lower() if letter not in _PUNCTUATION)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


_PUNCTUATION = frozenset(string.punctuation)
