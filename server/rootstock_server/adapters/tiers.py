"""Versions in host memory: read, hashed and checked once, ready to be put into a slot again.

Below it lies the blob store; above it, the slots. Refuses to know who waits for a version.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

from rootstock_adapters.op import Prepared


class HostTier:
    """At most `limit_bytes` of prepared versions; the least recently used goes first.

    Called by several loading threads at once.
    """

    def __init__(self, fetch: Callable[[str], Prepared], limit_bytes: int) -> None:
        self._fetch, self._limit = fetch, limit_bytes
        self._kept: OrderedDict[str, Prepared] = OrderedDict()
        self._bytes = 0
        self._lock = Lock()

    def __call__(self, digest: str) -> Prepared:
        """The version `digest`. Raises what the fetch from below raises."""
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
                return self._kept[digest]
        prepared = self._fetch(digest)
        with self._lock:
            if digest not in self._kept and prepared.host_bytes <= self._limit:
                self._kept[digest] = prepared
                self._bytes += prepared.host_bytes
                while self._bytes > self._limit:
                    self._bytes -= self._kept.popitem(last=False)[1].host_bytes
        return prepared
