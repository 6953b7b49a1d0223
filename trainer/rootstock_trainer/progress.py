"""What a running job says about itself, as it stands in the job's row.

Refuses to know who shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Progress:
    """`done` of `total` in the present `stage`; `total` 0 where it cannot be counted.

    `seconds` is how long workers have held the job so far, all of them together.
    """

    stage: str
    done: int = 0
    total: int = 0
    loss: float | None = None
    notes: tuple[str, ...] = ()  # everything worth telling so far, in order
    valid_loss: float | None = None
    seconds: float = 0.0
    results: tuple[str, ...] = ()  # ids of the files that hold what the run looked like

    def to_row(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Progress:
        """The inverse of `to_row`; an empty row is a job that nobody has begun."""
        if not row:
            return cls("waiting")
        known = {field.name for field in fields(cls)}
        values = {name: value for name, value in row.items() if name in known}
        lists = {name: tuple(row.get(name, ())) for name in ("notes", "results")}
        return cls(**{**values, **lists})


Report = Callable[[Progress], None]
