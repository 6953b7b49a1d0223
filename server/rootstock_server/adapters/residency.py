"""Which versions are resident, which are on their way, and who holds a lease on them.

Loading happens on threads of its own; `settle` applies what they finished, between steps.
Refuses to know what requests do with a version.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from rootstock_adapters.op import Prepared, Readout

from rootstock_server.adapters.slots import Slot, Slots
from rootstock_server.errors import AdapterMismatch, CorruptAdapter, RootstockError

LOADERS = 2


@dataclass
class ResidentVersion:
    """A version in place. `leases` counts the requests that refer to it."""

    digest: str
    slot: Slot | None  # None where the version changes no linear
    readout: Readout | None
    nbytes: int
    leases: int = 0


class Residency:
    """The engine's resident versions, bounded in bytes; the least recently used goes first."""

    def __init__(self, slots: Slots, fetch: Callable[[str], Prepared], limit_bytes: int) -> None:
        self._slots, self._fetch, self._limit = slots, fetch, limit_bytes
        self._resident: OrderedDict[str, ResidentVersion] = OrderedDict()
        self._wanted: dict[str, int] = {}  # digest → waiting requests, oldest first
        self._loading: dict[str, Future[Prepared]] = {}
        self._loaders = ThreadPoolExecutor(LOADERS, thread_name_prefix="adapter-load")
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)  # readable when a load has finished

    def close(self) -> None:
        self._loaders.shutdown(wait=True, cancel_futures=True)
        os.close(self.wake)

    def __iter__(self) -> Iterator[ResidentVersion]:
        return iter(self._resident.values())

    def want(self, digest: str) -> None:
        """A request waits for `digest`. Loads begin in the order of the first request."""
        self._wanted[digest] = self._wanted.get(digest, 0) + 1
        self._start_loads()

    def unwant(self, digest: str) -> None:
        self._wanted[digest] -= 1
        if not self._wanted[digest]:
            del self._wanted[digest]

    def get(self, digest: str) -> ResidentVersion | None:
        return self._resident.get(digest)

    def lease(self, digest: str) -> ResidentVersion:
        """Pin a resident version: it stays where it is until the lease is released."""
        version = self._resident[digest]
        version.leases += 1
        self._resident.move_to_end(digest)
        return version

    def release(self, digest: str) -> None:
        self._resident[digest].leases -= 1

    def settle(self) -> dict[str, RootstockError]:
        """Put finished loads into slots; return the versions that cannot be loaded, and why.

        A load that finds no room stays finished and is tried again: leases end.
        """
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake)
        failed: dict[str, RootstockError] = {}
        for digest, load in list(self._loading.items()):
            if not load.done():
                continue
            try:
                if digest not in self._wanted or self._place(digest, load.result()):
                    del self._loading[digest]
            except RootstockError as error:
                failed[digest] = error
            except Exception as error:  # a bug in a kind must fail its requests, not the engine
                failed[digest] = CorruptAdapter(f"version {digest} cannot be loaded: {error!r}")
        for digest in failed:
            del self._loading[digest]
        self._start_loads()
        return failed

    def _start_loads(self) -> None:
        for digest in self._wanted:
            if len(self._loading) >= LOADERS:
                return
            if digest not in self._loading and digest not in self._resident:
                load = self._loaders.submit(self._fetch, digest)
                load.add_done_callback(lambda _: os.eventfd_write(self.wake, 1))
                self._loading[digest] = load

    def _place(self, digest: str, prepared: Prepared) -> bool:
        linears = prepared.linears
        nbytes = self._slots.slot_bytes(linears) if linears else prepared.nbytes
        if nbytes > self._limit:
            raise AdapterMismatch(
                f"version {digest} needs {nbytes >> 20} MiB, over this server's adapter_memory_mib"
            )
        if not self._make_room(nbytes):
            return False
        slot = self._slots.take(linears) if linears else None
        self._resident[digest] = ResidentVersion(digest, slot, prepared.readout, nbytes)
        return True

    def _make_room(self, nbytes: int) -> bool:
        free = self._limit - sum(version.nbytes for version in self._resident.values())
        idle = [v for v in self._resident.values() if not v.leases and v.digest not in self._wanted]
        while free < nbytes and idle:
            version = idle.pop(0)
            del self._resident[version.digest]
            if version.slot is not None:
                self._slots.give_back(version.slot)
            free += version.nbytes
        return free >= nbytes
