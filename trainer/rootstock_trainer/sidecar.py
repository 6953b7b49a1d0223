"""The training sidecar: `python -m rootstock_trainer.sidecar --home H` runs jobs one by one.

SIGTERM ends it and its worker with status 0; the interrupted job is free again when its lease has
run out. Refuses to know torch and what a job does.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from rootstock_registry import Job, Registry
from rootstock_registry.errors import RegistryError

from rootstock_trainer.launch import Worker, claimant
from rootstock_trainer.worker import LEASE_S

POLL_S = 1.0
WATCH_S = 0.1
# Beside a server: its engine comes first, and two sets of threads would double its step time.
NICE = 10
ONE_THREAD = {"OMP_NUM_THREADS": "1"}

log = logging.getLogger("rootstock.sidecar")


def run(home: Path, stopping: threading.Event) -> None:
    """Claim and run jobs of every tenant, oldest first, until `stopping` is set."""
    registry = Registry(home)
    try:
        while not stopping.is_set():
            job = registry.claim_job(claimant(), LEASE_S)
            if job is None:
                stopping.wait(POLL_S)
            else:
                _run_job(registry, home, job, stopping)
    finally:
        registry.close()


def _run_job(registry: Registry, home: Path, job: Job, stopping: threading.Event) -> None:
    worker = Worker(home, job, ONE_THREAD)
    log.info("job %s of %s started as process %d", job.id, job.tenant, worker.pid)
    try:
        if worker.running:
            os.setpriority(os.PRIO_PROCESS, worker.pid, NICE)
        while worker.running and not stopping.wait(WATCH_S):
            pass
    finally:
        interrupted = worker.running
        worker.stop()
    if interrupted:
        log.info("job %s interrupted", job.id)
        return
    said = worker.close(registry)
    ended = registry.job(job.id)
    log.info("job %s %s%s", job.id, ended.state, f": {ended.error}" if ended.error else "")
    if said.strip() and ended.state == "failed":
        log.info("its worker said:\n%s", said.rstrip())


def _watch_stdin(stopping: threading.Event) -> None:
    """A killed server says nothing, but the kernel closes its end of the pipe."""
    sys.stdin.buffer.read()
    stopping.set()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rootstock_trainer.sidecar", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--until-stdin-ends", action="store_true", help="stop with who started us")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if options.until_stdin_ends:
        threading.Thread(target=_watch_stdin, args=(stopping,), daemon=True).start()
    log.info("waiting for jobs in %s", options.home)
    try:
        run(options.home, stopping)
    except RegistryError as error:
        log.error("%s", error.message)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
