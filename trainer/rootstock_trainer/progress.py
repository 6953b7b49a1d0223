"""What a running job says about itself, as it stands in the job's row.

Refuses to know who shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """`done` of `total` in the present `stage`; `total` 0 where it cannot be counted."""

    stage: str
    done: int = 0
    total: int = 0
    loss: float | None = None
    notes: tuple[str, ...] = ()  # everything worth telling so far, in order

    def to_row(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Progress:
        """The inverse of `to_row`; an empty row is a job that nobody has begun."""
        if not row:
            return cls("waiting")
        return cls(**{**row, "notes": tuple(row["notes"])})


Report = Callable[[Progress], None]
