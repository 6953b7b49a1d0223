"""One packed forward pass: shares become rows, rows get their versions, the base runs once.

Refuses to know what is read out of the hidden states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rootstock_server.adapters.attach import attach, changes
from rootstock_server.adapters.slots import Slots
from rootstock_server.adapters.virtual import embedded, write_ahead
from rootstock_server.backends.kv_cache import KvCache
from rootstock_server.backends.step import Placed, Row, Step, pack
from rootstock_server.base.load import Base
from rootstock_server.engine import seq2seq

if TYPE_CHECKING:
    from rootstock_server.adapters.residency import ResidentVersion
    from rootstock_server.engine.request import Batch, Request, Share


class Runner:
    def __init__(self, base: Base, slots: Slots, cache: KvCache | None) -> None:
        self._base, self._slots, self._cache = base, slots, cache

    def forward(self, batch: Batch) -> Tensor:
        """Last hidden states [T, D] of all shares' tokens, in the order of the shares."""
        halves = seq2seq.halves(batch)
        if len(halves) < 2:
            return self._forward(batch)
        return seq2seq.in_order(batch, halves, [self._forward(half) for half in halves])

    def _forward(self, batch: Batch) -> Tensor:
        chunks = [_next_tokens(share) for share in batch.shares]
        ids, positions = pack(chunks, [share.request.position for share in batch.shares])
        rows, start = [], 0
        for share in batch.shares:
            request, stop = share.request, start + share.tokens
            rows.append(Row(start, stop, request.position + share.tokens, request.blocks))
            start = stop
        applied = [share.request.applied for share in batch.shares]
        changed = changes(rows, applied)
        if placed := self._virtual(batch, rows):
            path = self._base.embedding
            changed[path] = (*changed.get(path, ()), *placed)
        step = Step(
            ids,
            positions,
            tuple(rows),
            decode_rows=batch.decode_rows,
            cache=self._cache,
            attachments=attach(self._slots, rows, applied),
            changes=changed,
            memories=seq2seq.memories(batch),
            encodes=batch.shares[0].request.reading,
        )
        return self._base.forward(step)

    def _virtual(self, batch: Batch, rows: Sequence[Row]) -> list[Placed]:
        """The embeddings of this step's virtual tokens; keys and values go to the cache at once."""
        placed = []
        for share, row in zip(batch.shares, rows, strict=True):
            virtual, computed = share.request.virtual, share.request.computed
            if virtual is None or computed > virtual.tokens:
                continue
            if self._cache is not None and computed == virtual.tokens:
                write_ahead(virtual, self._cache, row.blocks)
            if (one := embedded(virtual, computed, row)) is not None:
                placed.append(one)
        return placed

    def logits(self, hidden: Tensor, requests: Sequence[Request]) -> Tensor:
        """Next-token logits [S, vocabulary] fp32; row i of `hidden` [S, D] is `requests[i]`'s."""
        applied = [request.applied for request in requests]
        if not any(self._acts_on_output(version) for each in applied for version, _ in each):
            return self._base.logits(hidden)
        rows = [Row(i, i + 1, 1) for i in range(len(requests))]
        nothing = torch.empty(0, dtype=torch.long)
        step = Step(
            nothing,
            nothing,
            tuple(rows),
            attachments=attach(self._slots, rows, applied),
            changes=changes(rows, applied),
        )
        return self._base.logits(hidden, step)

    def _acts_on_output(self, version: ResidentVersion) -> bool:
        """Hardly any version does: to lay its rows out again would be for nothing."""
        output = self._base.output
        if output is None:
            return False
        updated = version.slot and output.number in self._slots.arrays(version.slot).down
        return bool(updated) or any(path in version.prepared.changes for path in output.paths)


def _next_tokens(share: Share) -> list[int]:
    first = share.request.computed
    return share.request.tokens[first : first + share.tokens]
