"""A step's rows and segments as tensors on the device, laid out once a step for every layer.

Refuses to know the arithmetic that reads them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from rootstock_server.backends.kv_cache import BLOCK_TOKENS
from rootstock_server.backends.step import Attachment, Row, Step

TILE_TOKENS = 16  # the fewest rows that a matrix unit takes: most segments are short


@dataclass(frozen=True)
class Pages:
    """Where a step's tokens go in the cache, and where its decode rows' earlier ones are."""

    places: Tensor  # [T] int64, block · 32 + offset; -1: nowhere
    table: Tensor  # [decode rows, blocks] int32
    lengths: Tensor  # [decode rows] int64, tokens in the cache with this step's


@dataclass(frozen=True)
class TokenSlots:
    """Every token's slot, for the kernels that take one token a program."""

    slots: Tensor  # [T] int64; -1: the base alone
    ranks: Tensor  # [T] int64, true ranks
    scales: Tensor  # [T] fp32


@dataclass(frozen=True)
class Tiles:
    """Segments cut into tiles of at most TILE_TOKENS tokens under one slot."""

    starts: Tensor  # [tiles] int64
    stops: Tensor  # [tiles] int64
    slots: Tensor  # [tiles] int64
    ranks: Tensor  # [tiles] int64, true ranks
    scales: Tensor  # [T] fp32


@dataclass(frozen=True)
class Chunks:
    """The rows after the decode rows, for attention over keys laid end to end."""

    query_ends: Tensor  # [rows + 1] int32, from 0
    key_ends: Tensor  # [rows + 1] int32, from 0
    longest_query: int
    longest_key: int
    places: Tensor | None  # [sum of lengths] int64; None: the step's own keys are all there are


def decodes_only(step: Step) -> bool:
    return step.decode_rows == len(step.rows)


def places_of(row: Row, first: int) -> list[int]:
    """Flat cache positions of the row's tokens from position `first` on."""
    return [
        row.blocks[position // BLOCK_TOKENS] * BLOCK_TOKENS + position % BLOCK_TOKENS
        for position in range(first, row.kv_length)
    ]


def used_blocks(row: Row) -> tuple[int, ...]:
    return row.blocks[: -(-row.kv_length // BLOCK_TOKENS)]


def padded_table(rows: tuple[Row, ...]) -> list[list[int]]:
    """The rows' blocks, each list filled up with zeros that no kernel reads."""
    used = [used_blocks(row) for row in rows]
    width = max((len(blocks) for blocks in used), default=0)
    return [[*blocks, *[0] * (width - len(blocks))] for blocks in used]


def pages(step: Step, device: torch.device) -> Pages:
    decode = step.rows[: step.decode_rows]
    places = [p for row in step.rows for p in places_of(row, row.kv_length - row.tokens)]
    return Pages(
        places=torch.tensor(places, device=device),
        table=torch.tensor(padded_table(decode), dtype=torch.int32, device=device),
        lengths=torch.tensor([row.kv_length for row in decode], device=device),
    )


def slot_lists(attachment: Attachment, tokens: int) -> tuple[list[int], list[int]]:
    """Slot and true rank of each of the step's tokens; -1 and 0 where none is attached."""
    slots, ranks = [-1] * tokens, [0] * tokens
    for segment in attachment.segments:
        length = segment.stop - segment.start
        slots[segment.start : segment.stop] = [segment.slot] * length
        ranks[segment.start : segment.stop] = [attachment.arrays.ranks[segment.slot]] * length
    return slots, ranks


def token_slots(attachment: Attachment, tokens: int, device: torch.device) -> TokenSlots:
    slots, ranks = slot_lists(attachment, tokens)
    return TokenSlots(
        torch.tensor(slots, device=device),
        torch.tensor(ranks, device=device),
        _scales(attachment, tokens, device),
    )


def tiles(attachment: Attachment, tokens: int, device: torch.device) -> Tiles:
    cut = [
        (start, min(start + TILE_TOKENS, s.stop), s.slot, attachment.arrays.ranks[s.slot])
        for s in attachment.segments
        for start in range(s.start, s.stop, TILE_TOKENS)
    ]
    # One copy to the device, not four.
    columns = torch.tensor(cut).T.contiguous().to(device)
    starts, stops, slots, ranks = columns
    return Tiles(starts, stops, slots, ranks, _scales(attachment, tokens, device))


def chunks(step: Step, device: torch.device) -> Chunks:
    rows = step.rows[step.decode_rows :]
    places = None
    if any(row.tokens < row.kv_length for row in rows):
        places = torch.tensor([p for row in rows for p in places_of(row, 0)], device=device)
    queries, keys = [row.tokens for row in rows], [row.kv_length for row in rows]
    return Chunks(
        query_ends=_ends(queries, device),
        key_ends=_ends(keys, device),
        longest_query=max(queries),
        longest_key=max(keys),
        places=places,
    )


def _ends(lengths: list[int], device: torch.device) -> Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _scales(attachment: Attachment, tokens: int, device: torch.device) -> Tensor:
    if attachment.scales is None:
        return torch.ones(tokens, device=device)
    return attachment.scales.to(device, torch.float32)
