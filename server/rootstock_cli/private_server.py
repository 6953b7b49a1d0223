"""A server of one's own for as long as it is needed: `rootstock serve` as a child process.

Refuses to know what it is asked; whatever happens here, the child is gone afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from rich.console import Console

from rootstock_cli.failures import Refused
from rootstock_cli.shipped import Source

START_S = 120.0
STOP_S = 15.0
FREE_PORTS = ("--port", "0", "--grpc-port", "0")


class Running(NamedTuple):
    """Where the server answers, and its process."""

    url: str
    grpc: str
    process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Until Ctrl-C. Raises Refused where the server ends before."""
        with suppress(KeyboardInterrupt):
            code = self.process.wait()
            raise Refused(f"the server has ended, with exit code {code}")


@contextmanager
def private_server(
    home: Path, bases: Sequence[Source], options: Sequence[str] = ()
) -> Iterator[Running]:
    """Serve `bases` from `home` until the context ends, on free ports unless `options` say.

    Raises Refused, with the server's own last words, where it does not come up.
    """
    log = home / "run" / "private-server.log"
    log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [sys.executable, "-m", "rootstock_cli.main", "serve", "--home", str(home)]
    for base in bases:
        command += ["--base", str(base)]
    command += [*FREE_PORTS, *options]
    with log.open("wb") as output, _sigterm_unwinds():
        # A session of its own: Ctrl-C in the terminal reaches it through us, at the right moment.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield _wait_until_ready(process, home, log)
        finally:
            _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], home: Path, log: Path) -> Running:
    announcement = home / "run" / "server.json"
    deadline = time.monotonic() + START_S
    with Console(stderr=True).status("starting the server"):
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise Refused(f"the server did not start: {_last_words(log)}")
            facts = _read(announcement)
            # Another server of this home may have announced itself there before.
            if facts.get("pid") == process.pid:
                return Running(str(facts["url"]), str(facts["grpc"]), process)
            time.sleep(0.05)
    raise Refused(f"the server was not ready within {START_S:.0f} s; its log is {log}")


def _read(announcement: Path) -> dict[str, str | int]:
    with suppress(OSError, ValueError):
        return dict(json.loads(announcement.read_text()))
    return {}


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("rootstock: ") if lines else "it ended without a word"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end; insist after a while, with everything that it started."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """Let SIGTERM end this program as Ctrl-C does, through every `finally`."""

    def leave(number: int, _: object) -> NoReturn:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
