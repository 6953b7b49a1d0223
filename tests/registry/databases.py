"""A PostgreSQL of the tests' own, from the machine's binaries, on a free port."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.ports import free_port

START_S = 120.0
# Nothing in this server outlives the tests: it need not wait for the disk.
FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=32MB")


@contextlib.contextmanager
def own_postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL that is gone afterwards, without a database's name."""
    binaries = _binaries()
    # Not below pytest's folder: that one is closed to the user who runs the server.
    folder = Path(tempfile.mkdtemp(prefix="rootstock-postgresql-"))
    user = None
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        user = "postgres"
        shutil.chown(folder, user, user)
    data = folder / "data"
    port = free_port()
    make = [binaries / "initdb", "--no-sync", "--auth=trust", "--username=postgres", "-E", "UTF8"]
    make += ["--no-locale"]  # whatever the machine's is
    quiet = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL}
    subprocess.run([*make, "-D", data], check=True, **quiet)  # type: ignore[call-overload]
    settings = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories="]
    options = [word for setting in (*settings, *FAST) for word in ("-c", setting)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(  # type: ignore[call-overload]
            [binaries / "postgres", "-D", data, *options], **quiet | {"stdout": log, "stderr": log}
        )
    url = f"postgresql://postgres@127.0.0.1:{port}"
    try:
        _wait_for(url, server, folder / "log")
        yield url
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(5)
        server.kill()
        server.wait()
        shutil.rmtree(folder)


def _binaries() -> Path:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    found = shutil.which("postgres")
    for folder in [*([Path(found).parent] if found else []), *reversed(installed)]:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    pytest.skip("PostgreSQL's initdb and postgres are not installed")


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(f"{url}/postgres").close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"PostgreSQL did not start: {log.read_text(errors='replace')}")
            time.sleep(0.05)
