"""How many requests of one tenant may be in flight at once.

Refuses to know what the requests are. Lives on one event loop, so a plain counter is exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rootstock_server.errors import OverQuota


class Quota:
    def __init__(self, max_in_flight_per_tenant: int) -> None:
        self._limit = max_in_flight_per_tenant
        self._in_flight: Counter[str] = Counter()

    @property
    def in_flight(self) -> int:
        """Requests of all tenants together."""
        return self._in_flight.total()

    @contextmanager
    def admit(self, tenant: str) -> Iterator[None]:
        """Count one request until the context ends. Raises OverQuota."""
        if self._in_flight[tenant] >= self._limit:
            raise OverQuota(
                f"{self._limit} requests of this tenant are already in flight; "
                "retry when one has finished"
            )
        self._in_flight[tenant] += 1
        try:
            yield
        finally:
            self._in_flight[tenant] -= 1
            if not self._in_flight[tenant]:
                del self._in_flight[tenant]
