"""Which rows are trained on and which are measured: reproducible, by label, duplicates together.

Knows a row by the digest of what it asks, so that a million rows are some megabytes. Refuses to
know what a row says.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HELD_OUT_SHARE = 0.2

Keys = NDArray[np.uint64]
Indices = NDArray[np.int64]


class Split(NamedTuple):
    """Indices of rows, both in the file's order."""

    train: Sequence[int]
    held_out: Sequence[int]


def key_of(text: str) -> int:
    """64 bits of BLAKE2b: two different texts of a million share them once in 10⁷ files."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def split(texts: Sequence[str], labels: Sequence[str] | None, seed: int) -> Split:
    """Hold out a fifth of the different texts, of each label's where `labels` are given."""
    keys = np.array([key_of(text) for text in texts], dtype=np.uint64)
    names = sorted(set(labels or ()))
    place = {name: number for number, name in enumerate(names)}
    strata = None if labels is None else np.array([place[name] for name in labels])
    train, held_out = split_keys(keys, strata, seed)
    return Split(train.tolist(), held_out.tolist())


def split_keys(
    keys: Keys, strata: Indices | None, seed: int, share: float = HELD_OUT_SHARE
) -> tuple[Indices, Indices]:
    """Indices of rows to train on and to hold out: `share` of the different `keys` [N], at least
    one of each stratum [N].

    Rows with the same key stay on the same side, so that nothing held out was trained on; they
    belong to the stratum that the first of them has.
    """
    different, first = np.unique(keys, return_index=True)
    stratum = np.zeros(len(different), np.int64) if strata is None else strata[first]
    order = np.argsort(stratum, kind="stable")
    borders = np.flatnonzero(np.diff(stratum[order])) + 1
    chooser = random.Random(seed)
    chosen = []
    for members in np.split(order, borders):
        count = max(1, round(share * len(members)))
        chosen.append(members[sorted(chooser.sample(range(len(members)), count))])
    held_out = np.isin(keys, different[np.concatenate(chosen)])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def with_every_label(
    train: Indices, held_out: Indices, keys: Keys, targets: NDArray[np.int32]
) -> tuple[Indices, Indices]:
    """The same split, but for rows that hold a label which would be nowhere in training.

    `targets` [N, columns]: only the first column decided the split.
    """
    for column in targets.T[1:]:
        missing = np.setdiff1d(column, column[train])
        if len(missing):
            needed = [keys[np.flatnonzero(column == label)[0]] for label in missing]
            moved = np.isin(keys, np.array(needed, dtype=np.uint64))
            train = np.union1d(train, np.flatnonzero(moved))
            held_out = np.setdiff1d(held_out, train)
    return train, held_out


def repeats(keys: Keys) -> int:
    """Rows that ask what an earlier row has asked."""
    return len(keys) - len(np.unique(keys))
