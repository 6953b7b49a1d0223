"""Batches of an encoder-decoder: some requests' sources are read beside others' targets.

Each half of the base makes one pass. Refuses to know how a source is remembered.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rootstock_server.backends.memory import Memory

if TYPE_CHECKING:
    from rootstock_server.engine.request import Batch, Request


def halves(batch: Batch) -> list[Batch]:
    """What the encoder reads and what the decoder does, each as a batch; no empty ones.

    Of a base that is only one of them, all shares are in one.
    """
    reading = tuple(share for share in batch.shares if share.request.reading)
    writing = tuple(share for share in batch.shares if not share.request.reading)
    both = (replace(batch, shares=reading, decode_rows=0), replace(batch, shares=writing))
    return [half for half in both if half.shares]


def in_order(batch: Batch, parts: list[Batch], hidden: list[Tensor]) -> Tensor:
    """The halves' hidden states [t, D], put as `batch` has its shares: [T, D]."""
    pieces: dict[int, Tensor] = {}
    for part, states in zip(parts, hidden, strict=True):
        sizes = [share.tokens for share in part.shares]
        pieces |= zip(map(id, part.shares), states.split(sizes), strict=True)
    return torch.cat([pieces[id(share)] for share in batch.shares])


def memories(batch: Batch) -> tuple[Memory | None, ...]:
    """One for each request that writes after it has read."""
    return tuple(_memory(share.request) for share in batch.shares)


def _memory(request: Request) -> Memory | None:
    if request.memory is None and 0 < request.source < len(request.tokens):
        request.memory = Memory()
    return request.memory
