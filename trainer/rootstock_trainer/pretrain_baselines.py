"""What counting alone achieves: unigram and interpolated trigram losses on the model's own tokens.

Knows no model; everything is a count over token ids.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]
Counts = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


class CountingBaselines:
    """Unigram with add-one smoothing, and a trigram by Witten-Bell interpolation.

    Witten and Bell 1991: p(c|h) = (count(hc) + types(h) * p(c|shorter h)) / (count(h) + types(h)),
    ending in the unigram. Nothing is tuned, so nothing can be tuned on the held-out documents.
    """

    def __init__(self, documents: list[Tokens], vocabulary: int) -> None:
        self.vocabulary = vocabulary
        far, near, target = self._targets(documents)
        self._unigram = np.bincount(target, minlength=vocabulary) + 1
        pairs = near * vocabulary + target
        self._pairs = _count(pairs)
        self._triples = _count(far * vocabulary**2 + pairs)
        self._near = self._context(self._pairs)
        self._far = self._context(self._triples)

    def nats(self, documents: list[Tokens]) -> tuple[float, float]:
        """Total loss in nats of all tokens after each document's first: (unigram, trigram)."""
        far, near, target = self._targets(documents)
        unigram = self._unigram[target] / self._unigram.sum()
        pairs = near * self.vocabulary + target
        bigram = _interpolate(_lookup(self._pairs, pairs), self._near, near, unigram)
        triples = _lookup(self._triples, far * self.vocabulary**2 + pairs)
        context = far * self.vocabulary + near
        trigram = _interpolate(triples, self._far, context, bigram)
        return float(-np.log(unigram).sum()), float(-np.log(trigram).sum())

    def _targets(self, documents: list[Tokens]) -> tuple[Tokens, Tokens, Tokens]:
        """Arrays (two before, one before, target), each `[targets]`, within documents only."""
        # One before the start stands for "nothing": the first token itself, doubled.
        padded = [np.concatenate([ids[:1], ids]) for ids in documents]
        far, near, target = (
            np.concatenate([ids[shift : len(ids) - 2 + shift] for ids in padded])
            for shift in range(3)
        )
        return far, near, target

    def _context(self, grams: Counts) -> tuple[Counts, npt.NDArray[np.int64]]:
        """For every history of these n-grams how often it occurs, and how many types follow."""
        history = grams[0] // self.vocabulary
        keys, inverse, types = np.unique(history, return_inverse=True, return_counts=True)
        totals = np.bincount(inverse, weights=grams[1]).astype(np.int64)
        return (keys, totals), types


def _count(keys: Tokens) -> Counts:
    values, counts = np.unique(keys, return_counts=True)
    return values, counts


def _lookup(table: Counts, keys: Tokens) -> npt.NDArray[np.int64]:
    place = np.minimum(np.searchsorted(table[0], keys), len(table[0]) - 1)
    return np.where(table[0][place] == keys, table[1][place], 0)


def _interpolate(
    counts: npt.NDArray[np.int64],
    context: tuple[Counts, npt.NDArray[np.int64]],
    histories: Tokens,
    shorter: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    (keys, totals), types = context
    total, kinds = _lookup((keys, totals), histories), _lookup((keys, types), histories)
    seen = total > 0
    return np.where(seen, (counts + kinds * shorter) / np.where(seen, total + kinds, 1), shorter)
