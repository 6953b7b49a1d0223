"""The training sidecar: `python -m rootstock_trainer.sidecar --home H` runs queued jobs.

SIGTERM ends it and its workers with status 0; an interrupted job waits in the queue, and goes on
from its checkpoint. Refuses to know torch and what a job does.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError
from rootstock_registry import Job, Registry
from rootstock_registry.errors import Conflict, RegistryError

from rootstock_trainer.compare import settle
from rootstock_trainer.inputs import tidy
from rootstock_trainer.launch import Worker, claimant, fail, holds, lose
from rootstock_trainer.lease import LEASE_S
from rootstock_trainer.limits import JobLimits
from rootstock_trainer.mates import claim_mates
from rootstock_trainer.progress import Progress

POLL_S = 1.0
WATCH_S = 0.1
# Beside a server: its engine comes first, and two sets of threads would double its step time.
NICE = 10
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

log = logging.getLogger("rootstock.sidecar")


class Slot:
    """A running job, or several that train together: their worker, watched until it ends."""

    def __init__(
        self, registry: Registry, home: Path, jobs: Sequence[Job], limits: JobLimits
    ) -> None:
        self._registry, self._home, self._jobs, self._limits = registry, home, jobs, limits
        self._before = {job.id: Progress.from_row(job.progress).seconds for job in jobs}
        self._begun = time.monotonic()
        self._worker = Worker(home, jobs, ONE_THREAD, "--beside-server")
        for job in jobs:
            log.info("job %s of %s started as process %d", job.id, job.tenant, self._worker.pid)
        _step_back(self._worker.pid)

    def ended(self) -> bool:
        """Look after the worker once; whether the slot is free."""
        if self._worker.running:
            if self._bounded():
                return False
            self._worker.kill()
        self._close()
        return True

    def interrupt(self) -> None:
        """Stop the worker; its jobs are in the queue again, with what they have done so far."""
        self._worker.stop()
        for job in self._jobs:
            with suppress(Conflict):  # the worker did it, or the job has ended
                self._registry.release_job(job)
        self._close()

    def _bounded(self) -> bool:
        """Whether the worker may go on. Where it may not, it can register nothing by then."""
        memory, passed = self._worker.memory, time.monotonic() - self._begun
        found = {job.id: self._exceeded(job, memory, passed) for job in self._jobs}
        if not any(found.values()):
            return True
        held = [job for job in self._jobs if holds(self._registry, job)]
        if len(held) > 1 and memory > self._limits.memory:
            for job in held:  # one of them may be at fault, which each will show alone
                lose(self._registry, job, "together the jobs needed more memory than one may have")
            return False
        over = {job.id for job in held if found[job.id]}
        for job in held:
            if why := found[job.id]:
                fail(self._registry, job, why)
        return any(job.id not in over for job in held)

    def _exceeded(self, job: Job, memory: int, passed: float) -> str | None:
        return self._limits.exceeded(memory, self._before[job.id] + passed)

    def _close(self) -> None:
        said = self._worker.close(self._registry)
        now = [self._registry.job(job.id) for job in self._jobs]
        for job in now:
            log.info("job %s %s%s", job.id, job.state, f": {job.error}" if job.error else "")
            if job.finished_at is not None:
                tidy(self._home, job.id)
        if said.strip() and any(job.state == "failed" for job in now):
            log.info("the worker said:\n%s", said.rstrip())


def run(home: Path, stopping: threading.Event, limits: JobLimits | None = None) -> None:
    """Claim and run jobs of every tenant, by priority and age, until `stopping` is set."""
    limits = limits or JobLimits()
    registry = Registry(home)
    slots: list[Slot] = []
    looked = settled = -POLL_S
    try:
        while not stopping.is_set():
            slots = [slot for slot in slots if not slot.ended()]
            now = time.monotonic()
            if now - settled >= POLL_S:
                settle(registry)
                settled = now
            if len(slots) < limits.jobs and now - looked >= POLL_S:
                job = registry.claim_job(claimant(), LEASE_S, per_tenant=limits.jobs_per_tenant)
                if job is not None:
                    mates = claim_mates(registry, job, claimant(), limits.jobs_together - 1)
                    slots.append(Slot(registry, home, [job, *mates], limits))
                    continue
                looked = now
            stopping.wait(WATCH_S if slots else POLL_S)
    finally:
        for slot in slots:
            slot.interrupt()
        registry.close()


def _step_back(pid: int) -> None:
    """Whatever else runs comes before this process and the threads it will start."""
    with suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, pid, NICE)
    if hasattr(os, "SCHED_IDLE"):
        # A container may forbid it; then being nice has to do.
        with suppress(OSError):
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def _watch_stdin(stopping: threading.Event) -> None:
    """A killed server says nothing, but the kernel closes its end of the pipe."""
    # Without Python's buffer, whose lock this thread would hold while the program ends.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stopping.set()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rootstock_trainer.sidecar", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--until-stdin-ends", action="store_true", help="stop with who started us")
    parser.add_argument("--limits", default="{}", help="bounds on jobs, as JSON")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    try:
        limits = JobLimits.model_validate_json(options.limits)
    except ValidationError as error:
        parser.error(f"--limits: {error}")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if options.until_stdin_ends:
        threading.Thread(target=_watch_stdin, args=(stopping,), daemon=True).start()
    log.info("waiting for jobs in %s", options.home)
    try:
        run(options.home, stopping, limits)
    except RegistryError as error:
        log.error("%s", error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
