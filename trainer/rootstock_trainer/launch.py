"""Starts the worker process of a claimed job, and says how it ended.

Shared by the sidecar and the foreground; refuses to know torch and what a job does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from rootstock_registry import Job, Registry
from rootstock_registry.errors import Conflict

STOP_S = 8.0
# A job works on local folders: nothing in it may wait for a network, or fill its log with bars.
# Threads that spin while they wait take the core from the engine beside them.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}


class Worker:
    """One running worker process, of one job or of several that train together. It has a session
    of its own, so that a Ctrl-C in the terminal reaches only who started it."""

    def __init__(
        self, home: Path, jobs: Job | Sequence[Job], environment: Mapping[str, str], *options: str
    ) -> None:
        self._jobs = [jobs] if isinstance(jobs, Job) else list(jobs)
        # A file, not a pipe: nobody has to read while the worker talks.
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        module = ["-m", "rootstock_trainer.worker"]
        which = ["--home", str(home)]
        for job in self._jobs:
            which += ["--job", job.id, "--fence", str(job.fence)]
        self._process = subprocess.Popen(
            [sys.executable, *module, *which, *options],
            env={**os.environ, **ENVIRONMENT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def memory(self) -> int:
        """Resident bytes; 0 once it has ended."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End the process if it still runs; it has a moment for a checkpoint."""
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def kill(self) -> None:
        """End the process at once: what it works on is not wanted any more."""
        self._process.kill()
        self._process.wait()

    def close(self, registry: Registry) -> str:
        """After the process has ended: give back what it left undone; returns its log.

        Such a job is tried again from its last checkpoint, unless its workers keep dying.
        """
        status = self._process.wait()
        self._log.seek(0)
        log = self._log.read().decode(errors="replace")
        self._log.close()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        said = f": {log.strip().splitlines()[-1]}" if log.strip() else ""
        for job in self._jobs:
            lose(registry, job, f"the worker process ended with {how}{said}")
        return log


def holds(registry: Registry, job: Job) -> bool:
    """Whether this claim still has the job."""
    now = registry.job(job.id)
    return now.state == "running" and now.fence == job.fence


def lose(registry: Registry, job: Job, message: str) -> None:
    """Give `job` back if this claim still holds it, for its worker is dead."""
    with suppress(Conflict):  # it has ended already, or is somebody else's
        registry.lose_job(job, message)


def fail(registry: Registry, job: Job, message: str) -> None:
    """Fail `job` if this claim still holds it."""
    with suppress(Conflict):  # it has ended already, or is somebody else's
        registry.fail_job(job, message)


def claimant() -> str:
    """Who claims, for the job's row: host and process."""
    return f"{os.uname().nodename}:{os.getpid()}"
