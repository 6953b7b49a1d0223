"""Whose turn it is: who was served least goes first (VTC, Sheng et al., arXiv 2401.00588).

Refuses to know who owners are; they are opaque keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from rootstock_server.engine.request import Request

# What a token costs an owner: one that is generated keeps the machine longer than one that is read.
READ, GENERATED = 1, 2


class ServedTokens:
    """One counter per owner with unfinished requests, and no memory of anybody else.

    Who returns begins at the least of those present: nobody saves up turns while away.
    """

    def __init__(self) -> None:
        self._served: dict[str, int] = {}
        self._unfinished: Counter[str] = Counter()

    def arrive(self, owner: str) -> None:
        if owner not in self._served:
            self._served[owner] = min(self._served.values(), default=0)
        self._unfinished[owner] += 1

    def leave(self, owner: str) -> None:
        self._unfinished[owner] -= 1
        if not self._unfinished[owner]:
            del self._unfinished[owner], self._served[owner]

    def charge(self, owner: str, tokens: int) -> None:
        if owner in self._served:
            self._served[owner] += tokens

    def order(self, waiting: Iterable[Request]) -> list[Request]:
        """Least served first; the requests of one owner stay in their own order."""
        return sorted(waiting, key=lambda request: self._served[request.owner])
