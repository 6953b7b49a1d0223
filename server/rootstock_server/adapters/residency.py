"""Which versions are resident, which are on their way, and who holds a lease on them.

Loading happens on threads of its own; `settle` applies what they finished, between steps.
Refuses to know what requests do with a version.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from rootstock_adapters.op import Prepared

from rootstock_server.adapters.slots import Slot, Slots
from rootstock_server.adapters.tiers import HostTier, Loaded
from rootstock_server.errors import AdapterMismatch, CorruptAdapter, Overloaded, RootstockError
from rootstock_server.out_of_memory import is_out_of_memory

LOADERS = 2


@dataclass(eq=False)
class ResidentVersion:
    """A version in place. `leases` counts the requests that refer to it."""

    digest: str
    slot: Slot | None  # None where the version has no low-rank updates
    prepared: Prepared  # all else that it does; the low-rank updates live in the slot
    nbytes: int
    leases: int = 0


Applied = tuple[ResidentVersion, float]  # a version on a request's rows, and its scale


class Residency:
    """The engine's resident versions, bounded in bytes; the least recently used goes first."""

    def __init__(
        self,
        slots: Slots,
        fetch: Callable[[str], Prepared],
        limit_bytes: int,
        tier: HostTier | None = None,
    ) -> None:
        self._slots, self._fetch, self._limit = slots, fetch, limit_bytes
        self._tier = tier or HostTier(0)
        self._resident: OrderedDict[str, ResidentVersion] = OrderedDict()
        self._pinned: frozenset[str] = frozenset()
        self._leaving: set[str] = set()  # leased, but somebody waits for their room
        self._loading: dict[str, Future[Loaded]] = {}
        # Loaders run their operations alone. Once OpenMP has more threads than there are cores,
        # libgomp's sleep after each operation instead of waiting: steps take half as long again.
        self._loaders = ThreadPoolExecutor(
            LOADERS, "adapter-load", initializer=torch.set_num_threads, initargs=(1,)
        )
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)  # readable when a load has finished

    def close(self) -> None:
        self._loaders.shutdown(wait=True, cancel_futures=True)
        os.close(self.wake)

    def __iter__(self) -> Iterator[ResidentVersion]:
        return iter(self._resident.values())

    def available(self, digest: str) -> bool:
        """Whether `digest` is resident and may be leased."""
        return digest in self._resident and digest not in self._leaving

    def known(self, digest: str) -> Prepared | None:
        """What `digest` does, except for low-rank updates; None while it is not resident."""
        version = self._resident.get(digest)
        return version.prepared if version else None

    def lease(self, digest: str) -> ResidentVersion:
        """Pin a resident version: it stays where it is until the lease is released."""
        version = self._resident[digest]
        version.leases += 1
        self._resident.move_to_end(digest)
        return version

    def release(self, digest: str) -> None:
        self._resident[digest].leases -= 1

    def pin(self, digests: Set[str]) -> None:
        """Keep exactly these resident: they come as if asked for, and never make room."""
        self._pinned = frozenset(digests)

    def settle(self, waiting: Sequence[Set[str]]) -> dict[str, RootstockError]:
        """Put finished loads into slots and begin new ones, in the order of the requests.

        `waiting` are the digests that each waiting request needs, the oldest request first.
        Returns the versions that cannot be loaded, and why.
        """
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wake)
        self._leaving.clear()
        waiting = [*waiting, *({digest} for digest in sorted(self._pinned))]
        due = self._due(waiting)
        failed: dict[str, RootstockError] = {}
        for digest, older in due.items():
            load = self._loading.get(digest)
            if load is None or not load.done():
                continue
            try:
                if not self._place(digest, load.result(), older, alone=older == waiting[0]):
                    break  # or younger loads would take, bit by bit, the room it waits for
            except RootstockError as error:
                failed[digest] = error
            except Exception as error:  # a bug in a kind must fail its requests, not the engine
                failed[digest] = _unloadable(digest, error)
        self._pinned -= failed.keys()  # or it would be read again in every step
        self._start_loads([v for v in waiting if not v & failed.keys()] if failed else waiting)
        return failed

    def _due(self, waiting: Sequence[Set[str]]) -> dict[str, set[str]]:
        """The versions to be loaded next → all that their requests and older ones need."""
        due: dict[str, set[str]] = {}
        older: set[str] = set()
        for versions in waiting:
            older |= versions
            for digest in sorted(versions - self._resident.keys() - due.keys()):
                due[digest] = set(older)
                if len(due) == LOADERS:
                    return due
        return due

    def _start_loads(self, waiting: Sequence[Set[str]]) -> None:
        due = self._due(waiting)
        for digest, load in list(self._loading.items()):
            if load.done() and digest not in due:
                del self._loading[digest]  # placed, failed, or nobody waits for it any more
        for digest in due:
            if digest not in self._loading and len(self._loading) < LOADERS:
                load = self._load(digest)
                load.add_done_callback(lambda _: os.eventfd_write(self.wake, 1))
                self._loading[digest] = load

    def _load(self, digest: str) -> Future[Loaded]:
        kept = self._tier.get(digest)
        if kept is None:
            return self._loaders.submit(self._read, digest)
        done: Future[Loaded] = Future()
        done.set_result(kept)
        return done

    def _read(self, digest: str) -> Loaded:
        """On a loader's thread: all that can be done before there is a slot."""
        prepared = self._fetch(digest)
        packed = self._slots.pack(prepared.linears) if prepared.linears else None
        return Loaded(replace(prepared, linears={}), packed)

    def _place(self, digest: str, loaded: Loaded, older: Set[str], *, alone: bool) -> bool:
        """Whether `digest` has found its place. `alone`: no older request will make room for it."""
        nbytes = loaded.nbytes
        kept = sum(version.nbytes for version in self if version.digest in older | self._pinned)
        if nbytes > self._limit or (alone and nbytes + kept > self._limit):
            raise AdapterMismatch(
                f"version {digest} needs {-(-nbytes >> 20)} MiB, with what is asked for beside it "
                f"{-(-(nbytes + kept) >> 20)} MiB; this server's adapter_memory_mib is "
                f"{self._limit >> 20}"
            )
        if nbytes + kept > self._limit or not self._make_room(nbytes, older):
            return False
        slot = self._slots.place(loaded.packed) if loaded.packed else None
        self._tier.put(digest, loaded)
        self._resident[digest] = ResidentVersion(digest, slot, loaded.rest, nbytes)
        return True

    def _make_room(self, nbytes: int, older: Set[str]) -> bool:
        """Whether `nbytes` are free now. Leased versions that must go get no new leases."""
        free = promised = self._limit - sum(version.nbytes for version in self)
        others = [version for version in self if version.digest not in older | self._pinned]
        for version in sorted(others, key=lambda v: v.leases > 0):
            if promised >= nbytes:
                break
            promised += version.nbytes
            if version.leases:
                self._leaving.add(version.digest)
            else:
                self._evict(version)
                free += version.nbytes
        return free >= nbytes

    def _evict(self, version: ResidentVersion) -> None:
        del self._resident[version.digest]
        if version.slot is not None:
            self._slots.give_back(version.slot)


def _unloadable(digest: str, error: Exception) -> RootstockError:
    if is_out_of_memory(error):
        return Overloaded(f"no memory was left to load version {digest}; try again in a moment")
    return CorruptAdapter(f"version {digest} cannot be loaded: {error!r}")
