"""The process that runs one job: `python -m rootstock_trainer.worker --home H --job ID --fence N`.

Whoever starts it has claimed the job; `N` is that claim's fencing token. It keeps the lease by a
heartbeat, and refuses to know how jobs are chosen. Exit status: 0 a version was registered; 1 the
job failed, its row says why; 3 the job was somebody else's, nothing was registered; 70 a fault of
ours, its row says that too.
"""

from __future__ import annotations

import argparse
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType

from rootstock_adapters.errors import ArtifactError, BaseError
from rootstock_registry import Job, Registry
from rootstock_registry.errors import Conflict, RegistryError

from rootstock_trainer.errors import TrainerError
from rootstock_trainer.progress import Progress
from rootstock_trainer.spec import TrainSpec

LEASE_S = 60.0  # longer than a busy machine needs to import torch
HEARTBEAT_S = 1.0

REGISTERED, FAILED, NOT_OURS, OUR_FAULT = 0, 1, 3, 70


class Lease:
    """Holds a job, and keeps its row's progress fresh, while the work goes on in another thread."""

    def __init__(self, registry: Registry, job: Job) -> None:
        self._registry, self._job = registry, job
        self._progress = Progress("starting")
        self._ended = threading.Event()
        self._lost: Conflict | None = None
        self._heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Lease:
        self._renew()
        self._heartbeat.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._heartbeat.join()

    def report(self, progress: Progress) -> None:
        """Raises Conflict once the job was taken over: whoever works on it stops here."""
        if self._lost is not None:
            raise self._lost
        new_stage = progress.stage != self._progress.stage
        self._progress = progress
        if new_stage:  # a short stage would otherwise pass between two heartbeats, unseen
            self._renew()

    def _renew(self) -> None:
        self._registry.renew_job(self._job, LEASE_S, self._progress.to_row())

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            try:
                self._renew()
            except Conflict as error:
                self._lost = error
                return


def work(registry: Registry, home: Path, job: Job) -> int:
    """Run a claimed job and write its end into its row; returns the exit status."""
    # The claim is renewed before torch, transformers and the data take their time.
    try:
        with Lease(registry, job) as lease:
            from rootstock_trainer.train import train

            train(TrainSpec.parse(job.spec), registry, home, job, lease.report)
    except Conflict as error:
        return _conflict(registry, job, error)
    except (TrainerError, RegistryError, ArtifactError, BaseError, MemoryError, OSError) as error:
        return _fail(registry, job, str(error) or type(error).__name__, FAILED)
    except Exception as error:
        traceback.print_exc()  # into the worker's log; the row has one sentence
        message = f"unexpected {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return _fail(registry, job, message, OUR_FAULT)
    return REGISTERED


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rootstock_trainer.worker", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--fence", type=int, required=True)
    options = parser.parse_args(arguments)
    registry = Registry(options.home)
    try:
        job = registry.job(options.job)
        if job.state != "running" or job.fence != options.fence:
            print(f"job {job.id} is held by somebody else", file=sys.stderr)
            return NOT_OURS
        return work(registry, options.home, job)
    except RegistryError as error:
        print(error.message, file=sys.stderr)
        return FAILED
    finally:
        registry.close()


def _conflict(registry: Registry, job: Job, error: Conflict) -> int:
    """Conflict also says that a name is taken: then the job is still ours, and fails."""
    now = registry.job(job.id)
    if now.state == "running" and now.fence == job.fence:
        return _fail(registry, job, error.message, FAILED)
    print(error.message, file=sys.stderr)
    return NOT_OURS


def _fail(registry: Registry, job: Job, message: str, status: int) -> int:
    try:
        registry.fail_job(job, message)
    except Conflict:
        return NOT_OURS
    return status


if __name__ == "__main__":
    sys.exit(main())
