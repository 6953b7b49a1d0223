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
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError
from rootstock_registry import Job, Registry
from rootstock_registry.errors import Conflict, RegistryError

from rootstock_trainer.compare import settle
from rootstock_trainer.inputs import tidy
from rootstock_trainer.launch import Worker, claimant, fail
from rootstock_trainer.lease import LEASE_S
from rootstock_trainer.limits import JobLimits
from rootstock_trainer.progress import Progress

POLL_S = 1.0
WATCH_S = 0.1
# Beside a server: its engine comes first, and two sets of threads would double its step time.
NICE = 10
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

log = logging.getLogger("rootstock.sidecar")


class Slot:
    """One running job: its worker process, watched until it ends."""

    def __init__(self, registry: Registry, home: Path, job: Job, limits: JobLimits) -> None:
        self._registry, self._home, self._job, self._limits = registry, home, job, limits
        self._before = Progress.from_row(job.progress).seconds
        self._begun = time.monotonic()
        self._worker = Worker(home, job, ONE_THREAD, "--beside-server")
        log.info("job %s of %s started as process %d", job.id, job.tenant, self._worker.pid)
        _step_back(self._worker.pid)

    def ended(self) -> bool:
        """Look after the worker once; whether the slot is free."""
        if self._worker.running:
            seconds = self._before + time.monotonic() - self._begun
            why = self._limits.exceeded(self._worker.memory, seconds)
            if why is None:
                return False
            fail(self._registry, self._job, why)  # first: the worker can register nothing now
            self._worker.kill()
        self._close()
        return True

    def interrupt(self) -> None:
        """Stop the worker; its job is in the queue again, with what it has done so far."""
        self._worker.stop()
        with suppress(Conflict):  # the worker did it, or the job has ended
            self._registry.release_job(self._job)
        self._close()

    def _close(self) -> None:
        said = self._worker.close(self._registry)
        now = self._registry.job(self._job.id)
        log.info("job %s %s%s", now.id, now.state, f": {now.error}" if now.error else "")
        if said.strip() and now.state == "failed":
            log.info("its worker said:\n%s", said.rstrip())
        if now.finished_at is not None:
            tidy(self._home, now.id)


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
                    slots.append(Slot(registry, home, job, limits))
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
    sys.stdin.buffer.read()
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
