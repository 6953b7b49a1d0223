"""Versions in host memory: read, hashed and checked once, ready to be put into a slot again.

Below it lies the blob store; above it, the slots. Refuses to know who waits for a version.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from rootstock_adapters.op import Prepared

from rootstock_server.adapters.slots import Packed


class Loaded(NamedTuple):
    """A version that is read, hashed, checked and laid out."""

    rest: Prepared  # all that it does beside low-rank updates of linears
    packed: Packed | None

    @property
    def nbytes(self) -> int:
        return self.rest.nbytes + (self.packed.nbytes if self.packed else 0)


class HostTier:
    """At most `limit_bytes` of versions; the least recently used goes first.

    Only the engine's thread may touch it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[str, Loaded] = OrderedDict()
        self._bytes = 0

    def get(self, digest: str) -> Loaded | None:
        if digest in self._kept:
            self._kept.move_to_end(digest)
        return self._kept.get(digest)

    def put(self, digest: str, loaded: Loaded) -> None:
        """Keep a version that has just been used; one larger than the tier is not kept."""
        if digest in self._kept or loaded.nbytes > self._limit:
            return
        self._kept[digest] = loaded
        self._bytes += loaded.nbytes
        while self._bytes > self._limit:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
