"""Promotion gates: what must be true of a version before an alias may move to it.

A gate compares one figure, or asks for a signature. Refuses to know where figures come from.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rootstock_registry.errors import GateNotMet, InvalidName

SIGNATURE = "signature"
MAX_GATES = 16
_COMPARES: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_GATE = re.compile(
    r"(?P<metric>[A-Za-z][A-Za-z0-9_./@-]{0,63})\s*(?P<compare>>=|<=|>|<)\s*"
    r"(?P<bound>[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][+-]?\d{1,3})?)",
    re.ASCII,
)


@dataclass(frozen=True)
class Gate:
    """`metric compare bound`, as in `accuracy >= 0.9`."""

    metric: str
    compare: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {self.compare} {self.bound:g}"

    def holds(self, figure: float) -> bool:
        return _COMPARES[self.compare](figure, self.bound)


@dataclass(frozen=True)
class Gates:
    """What a promotion demands. `signed`: a signature that a trusted key verifies."""

    figures: tuple[Gate, ...] = ()
    signed: bool = False

    @property
    def texts(self) -> list[str]:
        return [*map(str, self.figures), *([SIGNATURE] if self.signed else [])]


NO_GATES = Gates()


@dataclass(frozen=True)
class Figure:
    """A measured value, and in words which evaluation it is from."""

    value: float
    origin: str


def parse(texts: Sequence[str]) -> Gates:
    """`accuracy>=0.9`, `forgetting<=0.02`, `signature`. Raises InvalidName for anything else."""
    if len(texts) > MAX_GATES:
        raise InvalidName(f"require: at most {MAX_GATES} gates, not {len(texts)}")
    figures = tuple(_parse(text) for text in texts if text.strip() != SIGNATURE)
    return Gates(figures, signed=len(figures) < len(texts))


def parse_for_training(texts: Sequence[str]) -> Gates:
    """As `parse`, for a version that does not exist yet: nobody can have signed it."""
    demanded = parse(texts)
    if demanded.signed:
        raise InvalidName(
            f"require: a version has no {SIGNATURE} when its training ends; sign it, then promote "
            "it with this gate"
        )
    return demanded


def _parse(text: str) -> Gate:
    match = _GATE.fullmatch(text.strip())
    bound = float(match["bound"]) if match else math.inf
    if match is None or not math.isfinite(bound):
        # A shell takes > and < for redirections and hands over what stands before them.
        raise InvalidName(
            f"require {text[:80]!r} is not a gate: write METRIC>=NUMBER (or <=, >, <) between "
            f"quotes, as in --require 'accuracy>=0.9', or {SIGNATURE}"
        )
    return Gate(match["metric"], match["compare"], bound)


def check(gates: Gates, figures: Mapping[str, Figure], ref: str) -> None:
    """Raises GateNotMet with every figure that falls short, and every one that is missing."""
    short = [fault for gate in gates.figures if (fault := _fault(gate, figures))]
    if not short:
        return
    known = ", ".join(sorted(figures)) or "none"
    missing = any(gate.metric not in figures for gate in gates.figures)
    hint = f"; its figures are: {known}" if missing else ""
    raise GateNotMet(f"{ref} may not be promoted: {'; '.join(short)}{hint}")


def _fault(gate: Gate, figures: Mapping[str, Figure]) -> str | None:
    figure = figures.get(gate.metric)
    if figure is None:
        return f"need {gate}, but it has no {gate.metric}"
    if gate.holds(figure.value):
        return None
    return f"need {gate}, have {figure.value:.6g} ({figure.origin})"
