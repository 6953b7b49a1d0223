"""A run's checkpoints in a folder: tensors, facts, and a marker that is written last.

One without its marker, or whose bytes do not match it, does not exist. Refuses to know what is
trained and how.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

EVERY_S = 30.0
# Of the time of a run, at most this share goes into saving.
SHARE = 0.05
KEPT = 3
TENSORS, FACTS, MARKER = "state.safetensors", "state.json", "complete.json"


class State(NamedTuple):
    """Where a run is. `facts` are JSON and hold `done`, the number of its last step."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor]


def _nowhere(step: int, folder: Path, metrics: Mapping[str, float]) -> None:
    """Nobody wants to hear of a checkpoint."""


@dataclass
class Checkpoints:
    """The checkpoints of one job, written by one claim of it.

    `fence` is that claim's token: nobody removes what a later claim has written. `about` says what
    is trained on: a checkpoint about something else is not loaded. `wanted` asks for one before
    its time; `saved` hears of each.
    """

    folder: Path
    fence: int = 0
    about: str = ""
    every_s: float = EVERY_S
    wanted: Callable[[], bool] = lambda: False
    saved: Callable[[int, Path, Mapping[str, float]], None] = _nowhere
    _next: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._next = time.monotonic() + self.every_s

    def load(self) -> State | None:
        """The last whole one; None where there is none about this."""
        for place in reversed(self._places()):
            state = _read(place, self.about)
            if state is not None:
                return state
        return None

    def due(self) -> bool:
        return self.wanted() or time.monotonic() >= self._next

    def save(self, state: State) -> None:
        """When this returns, the checkpoint survives a power loss; older ones are removed."""
        begun = time.monotonic()
        step = int(state.facts["done"])
        place = self.folder / f"step-{step:08d}-{self.fence}"
        shutil.rmtree(place, ignore_errors=True)  # what a claim with this token left half done
        place.mkdir(parents=True)
        _write(place, state, self.about)
        _sync(self.folder)
        self._prune()
        metrics = {"loss": state.facts.get("loss"), "valid_loss": state.facts.get("valid_loss")}
        self.saved(step, place, {name: x for name, x in metrics.items() if x is not None})
        now = time.monotonic()
        self._next = now + max(self.every_s, (now - begun) / SHARE)

    def _places(self) -> list[Path]:
        """By step, then by claim; half written ones, too."""
        return sorted(self.folder.glob("step-*"), key=_order)

    def _prune(self) -> None:
        for place in self._places()[:-KEPT]:
            if _order(place)[1] <= self.fence:
                shutil.rmtree(place, ignore_errors=True)


def _order(place: Path) -> tuple[int, int]:
    _, step, fence = place.name.split("-")
    return int(step), int(fence)


def _write(place: Path, state: State, about: str) -> None:
    # contiguous: safetensors refuses views.
    tensors = {name: tensor.contiguous() for name, tensor in state.tensors.items()}
    save_file(tensors, place / TENSORS)
    (place / FACTS).write_text(json.dumps({"about": about, **state.facts}))
    digests = {name: _digest(place / name) for name in (TENSORS, FACTS)}
    for name in (TENSORS, FACTS):
        _sync(place / name)
    draft = place / f"{MARKER}.draft"
    draft.write_text(json.dumps(digests))
    _sync(draft)
    draft.rename(place / MARKER)
    _sync(place)


def _read(place: Path, about: str) -> State | None:
    try:
        digests = json.loads((place / MARKER).read_text())
        if any(_digest(place / name) != digests[name] for name in (TENSORS, FACTS)):
            return None
        facts = json.loads((place / FACTS).read_text())
        if facts.pop("about") != about:
            return None
        return State(facts, load_file(place / TENSORS))
    except (OSError, ValueError, KeyError, SafetensorError):
        return None


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
