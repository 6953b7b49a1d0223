"""Server processes: ours as its users run it, and any other that has to come up before it is asked.

Refuses to know what is asked of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

START_LIMIT_S = 180.0
STOP_LIMIT_S = 60.0


class ServerFailed(Exception):
    """The server did not start. The message ends with what it wrote."""


@contextlib.contextmanager
def serving(
    home: Path, base: str, options: Sequence[str] = (), env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run `rootstock serve` on `base` (NAME=PATH); the value is its address.

    Raises ServerFailed.
    """
    command = [
        sys.executable, "-m", "rootstock_cli.main", "serve", "--base", base, "--home", str(home),
        "--port", "0", "--grpc-port", "0", "--no-auth", "--no-sidecar", *options,
    ]  # fmt: skip
    announced = home / "run" / "server.json"
    announced.unlink(missing_ok=True)  # of an earlier server of this home

    def address() -> str | None:
        return str(json.loads(announced.read_text())["url"]) if announced.exists() else None

    with process(command, env or {}, home / "serve.log", address) as url:
        yield url


@contextlib.contextmanager
def process(
    command: Sequence[str], env: Mapping[str, str], log: Path, address: Callable[[], str | None]
) -> Iterator[str]:
    """Run `command` until the context ends; the value is its address, once there is one.

    Raises ServerFailed where it ends before, or takes too long.
    """
    with log.open("wb") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env={**os.environ, **env}
        )
    try:
        yield _wait(child, address, log)
    finally:
        child.terminate()
        try:
            child.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _wait(child: subprocess.Popen[bytes], address: Callable[[], str | None], log: Path) -> str:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and child.poll() is None:
        if url := address():
            return url
        time.sleep(0.1)
    wrote = log.read_text(errors="replace")[-2000:].strip()
    last = wrote.rpartition("\n")[2] or "it wrote nothing"
    raise ServerFailed(f"{log.stem} does not answer: {last}\nIt wrote:\n{wrote}")
