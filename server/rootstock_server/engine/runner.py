"""One packed forward pass: shares become rows, rows get their slots, the base runs once.

Refuses to know what is read out of the hidden states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from rootstock_server.adapters.attach import attach
from rootstock_server.adapters.slots import Slot, Slots
from rootstock_server.backends.kv_cache import KvCache
from rootstock_server.backends.step import Row, Step, pack
from rootstock_server.base.load import Base

if TYPE_CHECKING:
    from rootstock_server.engine.request import Batch, Request, Share


class Runner:
    def __init__(self, base: Base, slots: Slots, cache: KvCache | None) -> None:
        self._base, self._slots, self._cache = base, slots, cache

    def forward(self, batch: Batch) -> Tensor:
        """Last hidden states [T, D] of all shares' tokens, in the order of the shares."""
        chunks = [_next_tokens(share) for share in batch.shares]
        ids, positions = pack(chunks, [share.request.computed for share in batch.shares])
        rows, start = [], 0
        for share in batch.shares:
            request, stop = share.request, start + share.tokens
            rows.append(Row(start, stop, request.computed + share.tokens, request.blocks))
            start = stop
        step = Step(
            ids,
            positions,
            tuple(rows),
            decode_rows=batch.decode_rows,
            cache=self._cache,
            attachments=attach(self._slots, rows, [_slot(share.request) for share in batch.shares]),
        )
        return self._base.forward(step)


def _next_tokens(share: Share) -> list[int]:
    first = share.request.computed
    return share.request.tokens[first : first + share.tokens]


def _slot(request: Request) -> Slot | None:
    version = request.command.version
    return request.leases[version].slot if version is not None else None
