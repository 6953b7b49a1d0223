"""The engine: one base, one thread, no locks. `step` is the whole loop body.

Commands are applied between steps, by the same thread. Refuses to know sockets and processes.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from rootstock_adapters.op import Prepared
from rootstock_registry.blobs import BlobStore

from rootstock_server.adapters.fetch import fetch
from rootstock_server.adapters.residency import Residency
from rootstock_server.adapters.slots import Slots
from rootstock_server.adapters.tiers import HostTier
from rootstock_server.base.load import Base
from rootstock_server.config import EngineLimits
from rootstock_server.engine.grammar import Grammars
from rootstock_server.engine.kv_blocks import KvBlocks
from rootstock_server.engine.readout import read_out
from rootstock_server.engine.request import (
    Batch,
    Cancel,
    Command,
    Encode,
    Event,
    Failed,
    Fault,
    Generate,
    Heartbeat,
    Output,
    Pin,
    Resident,
)
from rootstock_server.engine.runner import Runner
from rootstock_server.engine.scheduler import Scheduler
from rootstock_server.errors import RootstockError
from rootstock_server.out_of_memory import is_out_of_memory

log = logging.getLogger(__name__)


class Engine:
    """Answers batches in which every row may use a different version."""

    def __init__(
        self, base: Base, blobs: BlobStore, limits: EngineLimits, tokenizer: Path | None = None
    ) -> None:
        """`tokenizer` is the base's tokenizer.json; without it no answer can have a grammar."""

        def load(digest: str) -> Prepared:
            return fetch(blobs, base.card, digest).bind(base.place)

        self.base = base
        self._cache = base.new_cache(limits.kv_cache_mib)
        self._blocks = KvBlocks(self._cache.blocks) if self._cache else None
        self._slots = Slots(base.groups, limits.max_rank, base.backend, base.dtype)
        self.residency = Residency(
            self._slots,
            load,
            limits.adapter_memory_mib << 20,
            HostTier(limits.adapter_host_mib << 20),
        )
        self.scheduler = Scheduler(limits, self.residency, self._blocks, base.eos_ids, base.card)
        self._grammars = Grammars(
            tokenizer,
            base.card.vocab_size,
            base.eos_ids,
            limits.max_waiting,
            lambda: os.eventfd_write(self.residency.wake, 1),
        )
        self._runner = Runner(base, self._slots, self._cache)
        self._steps = 0
        self._runnable = False  # something changed that may let a waiting request run

    @property
    def busy(self) -> bool:
        """Whether a step would do something now. Waiting for a load is not being busy."""
        return bool(self.scheduler.running) or self._runnable

    def apply(self, command: Command) -> list[Event]:
        """Take a command, between steps. A request that can never run fails here, in words."""
        self._runnable = True
        if isinstance(command, Cancel):
            self._grammars.cancel(command.id)
            self._wipe(self.scheduler.cancel(command.id))
            return []
        if isinstance(command, Pin):
            self.residency.pin(frozenset(command.versions))
            return []
        try:
            if isinstance(command, Generate) and command.sampling.grammar is not None:
                self._grammars.submit(command, command.sampling.grammar)
            else:
                self.scheduler.add(command)
        except RootstockError as error:
            return [_failed(command, error)]
        return []

    def step(self) -> list[Event]:
        """Run one batch: the frozen base once, many adapters. Empty when nothing can run."""
        events = [*self.expire(), *self._queue_compiled()]
        waiting = [request.versions for request in self.scheduler.waiting]
        events += self.scheduler.drop_unloadable(self.residency.settle(waiting))
        batch = self.scheduler.next_batch()
        # Not left to the wake-up alone: `settle` may just have cleared it.
        self._runnable = bool(batch.shares) or self._grammars.ready
        if batch.shares:
            self._steps += 1
            events += self.scheduler.commit(batch, self._run(batch))
        return events

    def expire(self) -> list[Event]:
        """Fail the requests whose deadline is past; to be called while nothing runs as well."""
        return self.scheduler.expire(time.monotonic())

    def wake(self) -> None:
        """A load or a grammar is ready: the next step may admit who waited for it."""
        self._runnable = True

    def _queue_compiled(self) -> list[Event]:
        """A request enters the queue when its grammar is ready: nobody behind it waits for that."""
        events: list[Event] = []
        for command, outcome in self._grammars.finished():
            try:
                if isinstance(outcome, RootstockError):
                    raise outcome
                self.scheduler.add(command, outcome)
            except RootstockError as error:
                events.append(_failed(command, error))
        return events

    def _run(self, batch: Batch) -> list[Output]:
        """Outputs of the batch. Whatever goes wrong ends the request at fault, never the engine."""
        try:
            hidden = self._runner.forward(batch)
            outputs = read_out(self.base, self._runner, hidden, batch)
        except Exception as error:
            if len(batch.shares) > 1:
                log.warning("a step failed; each of its requests is tried once more, alone")
                return [output for one in batch.apart() for output in self._run(one)]
            log.exception("a request's step failed; it is answered with an error")
            outputs = [_fault(error)]
        for share, output in zip(batch.shares, outputs, strict=True):
            if isinstance(output, Fault):
                self._wipe(share.request.blocks[share.request.keyed :])
        return outputs

    def _wipe(self, blocks: tuple[int, ...]) -> None:
        """Of a row that did not end well: NaN in its blocks, masked, is still NaN to the next."""
        if self._cache is not None and blocks:
            self._cache.clear(blocks)

    def heartbeat(self) -> Heartbeat:
        return Heartbeat(
            running=len(self.scheduler.running),
            waiting=len(self.scheduler.waiting),
            kv_blocks_used=self._blocks.used if self._blocks else 0,
            kv_blocks=self._blocks.total if self._blocks else 0,
            steps=self._steps,
            preemptions=self.scheduler.preemptions,
            prefix_hit_tokens=self.scheduler.prefix_hit_tokens,
            resident=[
                Resident(version=v.digest, bytes=v.nbytes, leases=v.leases) for v in self.residency
            ],
        )

    def close(self) -> None:
        self._grammars.close()
        self.residency.close()


def _fault(error: Exception) -> Fault:
    """What a request is told whose step failed, also alone."""
    if is_out_of_memory(error):
        return Fault("Overloaded", "no memory was left for this request; try again in a moment")
    return Fault("ServerFault", "the step failed; see the server's log")


def _failed(command: Generate | Encode, error: RootstockError) -> Failed:
    return Failed(
        id=command.id, error=type(error).__name__, message=error.message, param=error.param
    )
