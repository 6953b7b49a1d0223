"""What a step holds besides activations, as tensors that the kernels read.

Refuses to know what they do with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from rootstock_server.backends.kv_cache import BLOCK_TOKENS
from rootstock_server.backends.step import Attachment, Step


def table(step: Step) -> tuple[Tensor, Tensor]:
    """Rows [n, 4] (start, stop, kv_length, where its blocks begin) and all their blocks."""
    if "rows" not in step.scratch:
        rows, blocks = [], []
        for row in step.rows:
            rows.append((row.start, row.stop, row.kv_length, len(blocks)))
            blocks += row.blocks[: -(-row.kv_length // BLOCK_TOKENS)]
        step.scratch["rows"] = torch.tensor(rows)
        step.scratch["blocks"] = torch.tensor(blocks)
    return step.scratch["rows"], step.scratch["blocks"]


class Inputs:
    """Everything that differs between two steps of one kind, in tensors that a recording reads."""

    def __init__(self, step: Step) -> None:
        self._ids, self._positions = step.token_ids.clone(), step.positions.clone()
        self._read = [each.clone() for each in _read_by_kernels(step)]

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self._ids, self._positions, *self._read))

    def fill(self, step: Step) -> None:
        """Take over the numbers of another step of this kind."""
        self._ids.copy_(step.token_ids)  # modelling code takes views of these two
        self._positions.copy_(step.positions)
        for mine, theirs in zip(self._read, _read_by_kernels(step), strict=True):
            mine.set_(theirs)

    def step(self, step: Step) -> Step:
        """`step`, with every number of it in these tensors."""
        rows, blocks, *rest = self._read
        attachments = []
        for each in step.attachments:
            runs, ranks, *scales = rest[: 2 + (each.scales is not None)]
            rest = rest[2 + len(scales) :]
            placed = Attachment(each.arrays, each.segments, None, scales[0] if scales else None)
            vars(placed).update(runs=runs, ranks=ranks)
            attachments.append(placed)
        return replace(
            step,
            token_ids=self._ids,
            positions=self._positions,
            attachments=tuple(attachments),
            scratch={"rows": rows, "blocks": blocks},
        )


def _read_by_kernels(step: Step) -> list[Tensor]:
    tensors = [*table(step)]
    for each in step.attachments:
        tensors += [each.runs, each.ranks]
        tensors += [] if each.scales is None else [each.scales]
    return tensors
