"""Our server as its users run it: a registry filled by import, and the `rootstock serve` process.

Refuses to know what is asked of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Registry

from benchmarks.workload import WrongAnswer

BASE_NAME = "bench"
TENANT = "local"
START_LIMIT_S = 120.0
STOP_LIMIT_S = 60.0


class ServerFailed(Exception):
    """The server did not start. The message ends with what it wrote."""


def import_adapters(home: Path, base: Path, adapters: Mapping[str, Path]) -> None:
    """Register `base` and publish each PEFT folder as version 1 of its name."""
    card = BaseCard.read(base, BASE_NAME)
    registry = Registry(home)
    registry.add_base(card)
    for name, folder in adapters.items():
        registry.import_peft(TENANT, name, folder, card, promote="prod")


@contextlib.contextmanager
def serving(home: Path, base: Path, threads: int) -> Iterator[str]:
    """Run `rootstock serve`; the value is its address. Raises ServerFailed.

    A WrongAnswer of the body leaves with what the server had to say about it.
    """
    command = [
        str(Path(sys.executable).with_name("rootstock")), "serve",
        "--base", f"{BASE_NAME}={base}", "--home", str(home),
        "--port", "0", "--grpc-port", "0", "--no-auth", "--no-sidecar",
    ]  # fmt: skip
    env = {**os.environ, "ROOTSTOCK_LIMITS__ENGINE__THREADS": str(threads)}
    log = home / "serve.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
    try:
        yield _address(process, home / "run" / "server.json", log)
    except WrongAnswer as error:
        raise WrongAnswer(f"{error}\nThe server wrote:\n{_tail(log)}") from error
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[bytes], announced: Path, log: Path) -> str:
    """Wait until the server says where it listens, which it does once it can answer."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if announced.exists():
            return str(json.loads(announced.read_text())["url"])
        time.sleep(0.1)
    raise ServerFailed(f"`rootstock serve` does not answer; it wrote:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]
