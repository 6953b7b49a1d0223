"""Versions in host memory: read, hashed and checked once, ready to be put into a slot again.

Below it lies the blob store; above it, the slots. Refuses to know who waits for a version.
"""

from __future__ import annotations

from collections import OrderedDict

from rootstock_adapters.op import Prepared


class HostTier:
    """At most `limit_bytes` of prepared versions; the least recently used goes first.

    Only the engine's thread may touch it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[str, Prepared] = OrderedDict()
        self._bytes = 0

    def get(self, digest: str) -> Prepared | None:
        if digest in self._kept:
            self._kept.move_to_end(digest)
        return self._kept.get(digest)

    def put(self, digest: str, prepared: Prepared) -> None:
        """Keep a version that has just been used; one larger than the tier is not kept."""
        if digest in self._kept or prepared.host_bytes > self._limit:
            return
        self._kept[digest] = prepared
        self._bytes += prepared.host_bytes
        while self._bytes > self._limit:
            self._bytes -= self._kept.popitem(last=False)[1].host_bytes
