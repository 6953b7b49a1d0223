"""Which rows go through the model together: rows of like length, so that little is padded.

Refuses to know what a row holds; it sees lengths.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import overload

# Batches that are sorted among themselves: enough for little padding, few enough to stay shuffled.
BUCKET_BATCHES = 8


def by_length(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Every index once, shortest first, in batches of at most `max_tokens` with their padding."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[index] > max_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def shuffled(lengths: Sequence[int], size: int, epochs: int, seed: int) -> Batches:
    """`epochs` times every index once, in random batches of `size` rows of like length."""
    return Batches(lengths, size, epochs, seed)


class Batches(Sequence[list[int]]):
    """The batches of all epochs by number; one epoch of them is in memory.

    Equal where they were made with equal arguments.
    """

    def __init__(self, lengths: Sequence[int], size: int, epochs: int, seed: int) -> None:
        self._lengths, self._size, self._epochs, self._seed = lengths, size, epochs, seed
        self._bucket = size * BUCKET_BATCHES
        whole, rest = divmod(len(lengths), self._bucket)
        self._per_epoch = whole * BUCKET_BATCHES + -(-rest // size)
        self._begin()

    def __len__(self) -> int:
        return self._per_epoch * self._epochs

    @overload
    def __getitem__(self, number: int) -> list[int]: ...
    @overload
    def __getitem__(self, number: slice) -> list[list[int]]: ...
    def __getitem__(self, number: int | slice) -> list[int] | list[list[int]]:
        if isinstance(number, slice):
            return [self[i] for i in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        epoch, place = divmod(number, self._per_epoch)
        if epoch < self._epoch:
            self._begin()
        while self._epoch < epoch:
            self._next()
        return self._batches[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Batches) and list(self) == list(other)

    def _begin(self) -> None:
        # One source of chance for all epochs: a later one is reached by way of those before it.
        self._chooser = random.Random(self._seed)
        self._epoch = -1
        self._batches: list[list[int]] = []

    def _next(self) -> None:
        self._batches = []  # the epoch before is not kept while the next is made
        order = list(range(len(self._lengths)))
        self._chooser.shuffle(order)
        epoch: list[list[int]] = []
        for start in range(0, len(order), self._bucket):
            bucket = sorted(order[start : start + self._bucket], key=self._lengths.__getitem__)
            epoch += [bucket[i : i + self._size] for i in range(0, len(bucket), self._size)]
        self._chooser.shuffle(epoch)
        self._batches = epoch
        self._epoch += 1
