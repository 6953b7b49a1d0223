"""Which steps run the same operations each time, and what tells such steps apart.

Only tokens, positions, places in the cache and slots may differ between two of one kind. Refuses to
know how a step is recorded.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from rootstock_server.backends.backend import SlotArrays
from rootstock_server.backends.step import Attachment, Step

# What a recording reproduces. Any other field that is set makes the step run as it is.
STEP = {
    "token_ids",
    "positions",
    "rows",
    "decode_rows",
    "cache",
    "attachments",
    "backend",
    "scratch",
}
ATTACHMENT = {"arrays", "segments", "grid", "scales"}
ARRAYS = {"rank", "down", "up", "ranks"}


def recordable(step: Step) -> bool:
    """Whether a step is decode rows alone, under nothing but low-rank updates."""
    return (
        step.cache is not None
        and step.decode_rows == len(step.rows) == len(step.token_ids)
        and _only(step, Step, STEP)
        and all(
            _only(a, Attachment, ATTACHMENT) and _only(a.arrays, SlotArrays, ARRAYS)
            for a in step.attachments
        )
    )


def _only(value: Any, kind: type, known: set[str]) -> bool:
    """Whether `value` is plainly of `kind` and no field beside `known` says anything."""
    if type(value) is not kind:
        return False
    others = (getattr(value, f.name) for f in fields(value) if f.name not in known)
    return all(_says_nothing(other) for other in others)


def _says_nothing(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(each is None for each in value)
    return value is None or value is False or value == {}


class SameArrays:
    """Slot arrays as part of a key: these very arrays, before they grow or gain a group."""

    def __init__(self, arrays: SlotArrays) -> None:
        self._arrays = arrays  # kept, so that its identity is nobody else's
        self._key = (id(arrays), len(arrays.ranks), len(arrays.down))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SameArrays) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)
