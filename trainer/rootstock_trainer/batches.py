"""Which rows go through the model together: rows of like length, so that little is padded.

Refuses to know what a row holds; it sees lengths.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

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


def shuffled(lengths: Sequence[int], size: int, epochs: int, seed: int) -> list[list[int]]:
    """`epochs` times every index once, in random batches of `size` rows of like length."""
    chooser = random.Random(seed)
    batches: list[list[int]] = []
    for _ in range(epochs):
        order = list(range(len(lengths)))
        chooser.shuffle(order)
        epoch: list[list[int]] = []
        for start in range(0, len(order), size * BUCKET_BATCHES):
            bucket = sorted(order[start : start + size * BUCKET_BATCHES], key=lengths.__getitem__)
            epoch += [bucket[i : i + size] for i in range(0, len(bucket), size)]
        chooser.shuffle(epoch)
        batches += epoch
    return batches
