"""Places for updates without a base: three groups of linears, and versions made of numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event

import pytest
import torch
from rootstock_adapters.op import LowRank, Prepared
from rootstock_server.adapters.residency import Residency
from rootstock_server.adapters.slots import Slots
from rootstock_server.backends.reference import Reference


@dataclass
class Group:
    number: int
    paths: list[str]
    outs: list[int]
    in_features: int


GROUPS = [
    Group(0, ["0.q", "0.k", "0.v"], [12, 6, 6], 8),
    Group(1, ["0.o"], [8], 12),
    Group(2, ["1.up"], [20], 8),
]
SHAPES = {p: (out, g.in_features) for g in GROUPS for p, out in zip(g.paths, g.outs, strict=True)}


def update(paths: tuple[str, ...], rank: int, seed: int = 0) -> dict[str, LowRank]:
    generator = torch.Generator().manual_seed(seed)

    def one(path: str) -> LowRank:
        out, width = SHAPES[path]
        return LowRank(
            torch.randn(rank, width, generator=generator),
            torch.randn(out, rank, generator=generator),
        )

    return {path: one(path) for path in paths}


class Shelf:
    """Stored versions: `up1:7` has rank 1 and the name `up1:7`; a load may be held back."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.broken: dict[str, Exception] = {}
        self.held: dict[str, Event] = {}

    def fetch(self, digest: str) -> Prepared:
        self.fetched.append(digest)
        if digest in self.held:
            assert self.held[digest].wait(60)
        if digest in self.broken:
            raise self.broken[digest]
        rank = 64 if digest.startswith("wide") else 4
        return Prepared(linears=update(("1.up",), rank))


@pytest.fixture
def groups() -> list[Group]:
    return GROUPS


@pytest.fixture
def updates() -> Callable[..., dict[str, LowRank]]:
    """`updates(("0.q", "0.o"), rank=3, seed=1)`: random low-rank updates of these linears."""
    return update


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def residency(shelf: Shelf) -> Iterator[Callable[[int], Residency]]:
    """`residency(3)`: room for three versions of rank 16, in slots of one linear."""
    made: list[Residency] = []

    def build(versions: int) -> Residency:
        slots = Slots(GROUPS, max_rank=64, backend=Reference())
        limit = versions * slots.pack(update(("1.up",), 4)).nbytes
        made.append(Residency(slots, shelf.fetch, limit))
        return made[-1]

    yield build
    for one in made:
        one.close()
