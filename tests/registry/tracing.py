"""Faults at system calls: a forked child that strace kills, or lies to, at its n-th write or sync.

The child is forked, so that it need not import anything again, and attached to when it is ready.
Page cache survives a kill: this tests the order of steps and what is done on errors, not the disk.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Everything by which a program changes what is on a disk, or tells a server to.
CHANGES = (
    "write", "pwrite64", "pwritev", "writev", "fsync", "fdatasync", "sync_file_range", "rename",
    "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "ftruncate", "fallocate",
    "mkdir", "mkdirat", "rmdir", "fchmod", "sendto",
)  # fmt: skip
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, ctypes.c_ulong(-1)
_LINE = re.compile(r"(\w+)\(")
WAIT_S = 20.0

Acknowledge = Callable[[str], None]
Work = Callable[[Acknowledge], None]


@dataclass(frozen=True)
class Outcome:
    """A child's exit (negative: the signal that ended it), what it acknowledged, its calls."""

    status: int
    acknowledged: list[str]
    calls: Counter[str]
    errors: str


def forked(
    work: Work, before: Callable[[int], None] = lambda _: None
) -> tuple[int, list[str], str]:
    """Run `work(acknowledge)` in a child after `before(child)`: exit, acknowledged, its errors."""
    reading, writing = os.pipe()
    with tempfile.TemporaryFile("w+") as errors:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                _wait_for_the_tracer()
                work(lambda line: os.write(writing, f"{line}\n".encode()) and None)
                status = 0
            except BaseException:
                traceback.print_exc(file=errors)
                errors.flush()
            finally:
                os._exit(status)
        os.close(writing)
        os.waitpid(child, os.WUNTRACED)
        before(child)
        os.kill(child, signal.SIGCONT)
        with os.fdopen(reading) as stream:
            lines = stream.read().split()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        return status, lines, errors.read()


def _wait_for_the_tracer() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)


def traced(work: Work, inject: str | None = None) -> Outcome:
    """Run `work` in a child under strace; `inject`: as strace has it, `fsync:error=EIO:when=2`."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        tracer: list[subprocess.Popen[bytes]] = []
        command = [
            "strace",
            "-o",
            str(log),
            "-e",
            f"trace={','.join(CHANGES)}",
            "-e",
            "signal=none",
        ]
        if inject is not None:
            command += ["-e", f"inject={inject}"]

        def attach(child: int) -> None:
            tracer.append(subprocess.Popen([*command, "-p", str(child)], stderr=subprocess.PIPE))
            _until_attached(child, tracer[0])

        try:
            status, lines, errors = forked(work, attach)
        finally:
            for process in tracer:
                process.wait(WAIT_S)
                assert process.stderr is not None
                process.stderr.close()
        matches = (_LINE.match(line) for line in log.read_text(errors="replace").splitlines())
        calls = Counter(match[1] for match in matches if match)
    return Outcome(status, lines, calls, errors)


def _until_attached(child: int, tracer: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_S
    status = Path(f"/proc/{child}/status")
    while "TracerPid:\t0\n" in status.read_text():
        if tracer.poll() is not None or time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            raise RuntimeError(f"strace cannot attach: {tracer.stderr and tracer.stderr.read()!r}")
        time.sleep(0.002)


def can_trace() -> bool:
    """Whether strace is here and may attach to a child of this process."""
    if sys.platform != "linux" or shutil.which("strace") is None:
        return False
    try:
        return traced(lambda _: os.kill(os.getpid(), 0), "kill:signal=KILL:when=9").status == 0
    except (RuntimeError, OSError, subprocess.TimeoutExpired):
        return False


def points(calls: Counter[str]) -> Iterator[tuple[str, int]]:
    """Every call of a run as `(name, how many of its name so far)`."""
    for name, count in sorted(calls.items()):
        for number in range(1, count + 1):
            yield name, number
