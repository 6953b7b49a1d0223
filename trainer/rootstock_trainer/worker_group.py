"""Several claimed jobs in one worker process, each in a thread of its own, trained in one pass.

Each has its lease, its heartbeat and its end: one that fails, is paused or is cancelled leaves the
others going. Refuses to know how jobs are chosen.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from rootstock_registry import Job

from rootstock_trainer.lease import Lease

if TYPE_CHECKING:
    from rootstock_trainer.together import Member

# A job's way into the group: made when it is first needed, for it takes torch.
Seat = Callable[[], "Member"]
Work = Callable[[Job, Lease, Seat], int]


def work_together(held: Sequence[tuple[Job, Lease]], work: Work) -> int:
    """`work` on all of them at once; the status of the first that did not end well, or 0."""
    seats = _Seats(len(held))
    statuses = [0] * len(held)

    def one(number: int, job: Job, lease: Lease) -> None:
        seat = cache(seats.take)
        try:
            statuses[number] = work(job, lease, seat)
        finally:
            seat().leave()

    threads = [
        threading.Thread(target=one, args=(number, *each), name=f"job-{number}")
        for number, each in enumerate(held)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()  # signals are heard meanwhile
    return next((status for status in statuses if status), 0)


class _Seats:
    """One for each job; torch and transformers are imported once, by whoever comes first."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._free: list[Member] | None = None
        self._lock = threading.Lock()

    def take(self) -> Member:
        with self._lock:
            if self._free is None:
                from rootstock_trainer.together import Together

                self._free = list(Together(self._count).members)
            return self._free.pop()
