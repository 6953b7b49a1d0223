"""The process that runs a job: `python -m rootstock_trainer.worker --home H --job ID --fence N`.

Whoever starts it has claimed the job; `N` is that claim's fencing token. `--job` and `--fence`
again, for each of several that train together. It keeps the leases by heartbeats, and refuses to
know how jobs are chosen. Exit status, of several the first that is not 0: 0 a version was
registered; 1 the job failed, its row says why; 3 the job is no longer this claim's, nothing was
registered; 4 the job was put down after a checkpoint; 70 a fault of ours, its row says that too.
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rootstock_adapters.errors import ArtifactError, BaseError
from rootstock_registry import Job, Registry
from rootstock_registry.errors import Conflict, RegistryError

from rootstock_trainer.courtesy import Courtesy, busy_file
from rootstock_trainer.errors import TrainerError
from rootstock_trainer.inputs import job_folder, localized, tidy
from rootstock_trainer.lease import Interrupted, Lease
from rootstock_trainer.progress import Progress
from rootstock_trainer.results import keep_results
from rootstock_trainer.spec import TrainSpec
from rootstock_trainer.worker_group import Seat, work_together

if TYPE_CHECKING:
    from rootstock_trainer.together import Member

REGISTERED, FAILED, NOT_OURS, PUT_DOWN, OUR_FAULT = 0, 1, 3, 4, 70


def work(
    registry: Registry,
    home: Path,
    job: Job,
    lease: Lease | None = None,
    seat: Seat | None = None,
) -> int:
    """Run a claimed job and write its end into its row; returns the exit status."""
    status = _worked(registry, home, job, lease, seat)
    if registry.job(job.id).finished_at is not None:
        tidy(home, job.id)
    return status


def _worked(
    registry: Registry, home: Path, job: Job, lease: Lease | None, seat: Seat | None
) -> int:
    # The claim is renewed before torch, transformers and the data take their time.
    try:
        with lease or Lease(registry, job) as held:
            if seat is None:
                _train(registry, home, job, held)
            else:
                member = seat()
                with member.turn():
                    _train(registry, home, job, held, member)
    except Interrupted as interrupted:
        return _put_down(registry, job, interrupted)
    except Conflict as error:
        return _conflict(registry, job, error)
    except (TrainerError, RegistryError, ArtifactError, BaseError, MemoryError, OSError) as error:
        return _fail(registry, job, str(error) or type(error).__name__, FAILED)
    except Exception as error:
        traceback.print_exc()  # into the worker's log; the row has one sentence
        message = f"unexpected {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        return _fail(registry, job, message, OUR_FAULT)
    return REGISTERED


def _train(
    registry: Registry, home: Path, job: Job, lease: Lease, member: Member | None = None
) -> None:
    spec = TrainSpec.parse(localized(registry, home, job))
    from rootstock_trainer.checkpoints import Checkpoints
    from rootstock_trainer.outcome import Place
    from rootstock_trainer.train import train

    checkpoints = Checkpoints(
        job_folder(home, job.id) / "checkpoints",
        job.fence,
        wanted=lambda: lease.interrupted,
        saved=lease.checkpointed,
    )

    def report(progress: Progress) -> None:
        lease.report(progress)
        if progress.stage == "publishing":  # with the version the job ends, and takes no more
            lease.results(keep_results(registry, home, job))

    train(spec, registry, job, report, Place(home, checkpoints, member))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rootstock_trainer.worker", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--job", action="append", required=True)
    parser.add_argument("--fence", type=int, action="append", required=True)
    parser.add_argument(
        "--beside-server", action="store_true", help="pause between steps while it is busy"
    )
    options = parser.parse_args(arguments)
    registry = Registry(options.home)
    try:
        jobs = _held(registry, options.job, options.fence)
        if not jobs:
            return NOT_OURS
        courtesy = Courtesy(busy_file(options.home)) if options.beside_server else None
        leases = [Lease(registry, job, courtesy) for job in jobs]
        signal.signal(signal.SIGTERM, lambda *_: [lease.stop() for lease in leases])
        if len(jobs) == 1:
            return work(registry, options.home, jobs[0], leases[0])
        return work_together(
            list(zip(jobs, leases, strict=True)), partial(work, registry, options.home)
        )
    except RegistryError as error:
        print(error.message, file=sys.stderr)
        return FAILED
    finally:
        registry.close()


def _held(registry: Registry, ids: Sequence[str], fences: Sequence[int]) -> list[Job]:
    """Those that these claims still hold."""
    held = []
    for job, fence in zip(map(registry.job, ids), fences, strict=True):
        if job.state == "running" and job.fence == fence:
            held.append(job)
        else:
            print(f"job {job.id} is held by somebody else", file=sys.stderr)
    return held


def _put_down(registry: Registry, job: Job, interrupted: Interrupted) -> int:
    try:
        registry.release_job(job, paused=interrupted.why == "pause")
    except Conflict:
        return NOT_OURS
    return PUT_DOWN


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
