"""Changes that are made without end, through a server's doors and by the command beside it, while
the server is killed; what was acknowledged is then looked for."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from rootstock_registry import Registry
from rootstock_registry.errors import NotFound

from tests.e2e.conftest import SERVE
from tests.e2e.test_fine_tuning_sdk import rows
from tests.e2e.test_serve_process import children, gone

DOOR_S = ENDED_S = 60.0


@dataclass
class Acknowledged:
    """`jobs` by id: whether cancelling it was acknowledged, too."""

    moves: list[int] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    jobs: dict[str, bool] = field(default_factory=dict)
    imported: list[str] = field(default_factory=list)  # digests

    def __len__(self) -> int:
        return len(self.moves) + len(self.files) + len(self.jobs) + len(self.imported)


class Killed:
    """A home whose servers are killed. `loud` has two versions there."""

    def __init__(self, home: Path, base: Path) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._home, self._base = home, base
        self.acknowledged = Acknowledged()
        self._imports = 0

    def round(
        self, chance: random.Random, most_s: float, *, early: bool, sidecar: bool = False
    ) -> None:
        """Start a server, change things through it and beside it, kill it, and look at the home.

        `early`: perhaps before it has acknowledged anything.
        """
        server = self._start(sidecar)
        over = threading.Event()
        changing = [
            threading.Thread(target=self._until, args=(over, change))
            for change in (self._move, self._create, self._import)
        ]
        try:
            for thread in changing:
                thread.start()
            if not early:
                self._wait_for_some()
            time.sleep(chance.uniform(0.0, most_s))
            own = children(server, "rootstock_")
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()
            over.set()
            for thread in changing:
                thread.join()
        deadline = time.monotonic() + ENDED_S
        while not all(_ended(pid) for pid in own):
            assert time.monotonic() < deadline, "a child has outlived its server"
            time.sleep(0.02)
        self.check()

    def _wait_for_some(self) -> None:
        known = self.acknowledged
        before = len(known.moves), len(known.jobs)
        deadline = time.monotonic() + DOOR_S
        while len(known.moves) == before[0] or len(known.jobs) == before[1]:
            assert time.monotonic() < deadline, "nothing was acknowledged"
            time.sleep(0.01)

    def check(self) -> None:
        """Everything acknowledged is there and whole, nothing is half, and the log is unbroken."""
        registry = Registry(self._home)
        known = self.acknowledged
        moves = [move.number for move in registry.alias_history("local", "loud", "next")][::-1]
        # One that was not acknowledged may have been made, too: the last one before a kill.
        remaining = iter(moves)
        assert all(number in remaining for number in known.moves)
        with contextlib.suppress(NotFound):
            assert registry.resolve("local", "loud@next").number == moves[-1]
        for each in known.files:
            assert registry.file("local", each).id == each
        for each, cancelled in known.jobs.items():
            state = registry.job(each).state
            assert state == "cancelled" or not cancelled, state
        versions = [
            version
            for summary in registry.adapters("local")
            for version in registry.versions("local", summary.name)
        ]
        assert set(known.imported) <= {version.digest for version in versions}
        for version in versions:
            for part in version.manifest.parts:
                assert len(registry.blobs.get(part.blob)) == part.size
        registry.evidence.verify_audit()
        registry.close()

    def _start(self, sidecar: bool) -> subprocess.Popen[bytes]:
        values = {
            "home": str(self._home), "bases": [f"tiny={self._base}"], "no_auth": True,
            "port": self._port, "grpc_port": 0, "no_sidecar": not sidecar,
            "limits": {"engine": {"threads": 1, "kv_cache_mib": 16}},
        }  # fmt: skip
        with (self._home / "server.log").open("ab") as log:
            server = subprocess.Popen(
                [sys.executable, "-c", SERVE, json.dumps(values)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + DOOR_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{self.url}/livez")  # its doors are open before its base is loaded
                return server
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)

    def _until(self, over: threading.Event, change: Callable[[httpx.Client], None]) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as http:
            while not over.is_set():
                try:
                    change(http)
                except httpx.TransportError:
                    over.wait(0.02)

    def _move(self, http: httpx.Client) -> None:
        number = 1 + len(self.acknowledged.moves) % 2
        if http.post("/v1/aliases/loud/next", json={"version": number}).is_success:
            self.acknowledged.moves.append(number)

    def _create(self, http: httpx.Client) -> None:
        known = self.acknowledged
        if not known.files:
            uploaded = http.post(
                "/v1/files", files={"file": ("a.jsonl", rows())}, data={"purpose": "fine-tune"}
            )
            if uploaded.is_success:
                known.files.append(uploaded.json()["id"])
            return
        job = http.post(
            "/v1/fine_tuning/jobs", json={"model": "tiny", "training_file": known.files[-1]}
        )
        assert job.is_success, job.text
        known.jobs[job.json()["id"]] = False
        if http.post(f"/v1/fine_tuning/jobs/{job.json()['id']}/cancel").is_success:
            known.jobs[job.json()["id"]] = True

    def _import(self, _: httpx.Client) -> None:
        self._imports += 1
        file = self._home / "prompt.json"
        file.write_text(json.dumps({"template": f"{self._imports}: {{input}}"}))
        command = ("import", str(file), "--as", "asker", "--base", "tiny", "--json")
        ran = subprocess.run(
            [sys.executable, "-m", "rootstock_cli.main", *command],
            env=os.environ | {"ROOTSTOCK_HOME": str(self._home)}, capture_output=True, text=True,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        self.acknowledged.imported.append(json.loads(ran.stdout)["digest"])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _ended(pid: int) -> bool:
    """Gone, or waiting for whoever inherited it to ask for its exit code."""
    if gone(pid):
        return True
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True
