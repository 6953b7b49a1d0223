"""Every block of code in the documents runs, in order, in one shell's life with real servers.

A block runs unless a comment before it says `not run` and why. The output of a `console` block is
compared where it is shown; after `answers differ`, by its shape only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
SERVE = "rootstock serve "
START_S, RUN_S = 240.0, 600.0


class Shell:
    """A reader's terminals: variables live from block to block; a server runs beside them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.outputs = folder, dict[str, list[str]]()
        self._server: subprocess.Popen[bytes] | None = None
        self._ports = {each: str(free_port()) for each in ("8000", "8001")}
        for name in ("docs", "server", "clients", "tests", "pyproject.toml"):
            (folder / name).symlink_to(ROOT / name)
        (folder / ".venv").symlink_to(sys.prefix)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("ROOTSTOCK_")} | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ROOTSTOCK_HOME": str(folder / "home"),
            "ROOTSTOCK_PORT": self._ports["8000"],
            "ROOTSTOCK_GRPC_PORT": self._ports["8001"],
            "ROOTSTOCK_URL": f"http://127.0.0.1:{self._ports['8000']}",
            # A sidecar may be quicker to claim a foreground job, and works at the lowest priority.
            "ROOTSTOCK_NO_SIDECAR": "true",
            "HF_HUB_OFFLINE": "1",
            # More threads are no faster for models this small, and slower beside other work.
            "OMP_NUM_THREADS": "1",
            "ROOTSTOCK_LIMITS__ENGINE__THREADS": "1",
        }

    def run(self, block: Any) -> list[str]:
        """What the block's commands print; one text for each command of a console block."""
        if block.code.startswith(SERVE):
            self._serve(block.code)
            return []
        if block.language == "python":
            return [self._call([sys.executable, "-W", "error", "-c", self._local(block.code)])]
        if block.language == "sh":
            return [self._bash(block.code)]
        return [self._bash(command) for command, _ in console(block.code)]

    def close(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            try:
                self._server.wait(120)
            except subprocess.TimeoutExpired:
                os.killpg(self._server.pid, signal.SIGKILL)
                self._server.wait()

    def _local(self, code: str) -> str:
        for written, free in self._ports.items():
            code = code.replace(f"127.0.0.1:{written}", f"127.0.0.1:{free}")
        return code

    def _bash(self, commands: str) -> str:
        kept = self.folder / "variables"
        script = f"set -eauo pipefail\n{self._local(commands)}\nenv -0 > {kept}"
        out = self._call(["bash", "-c", script])
        pairs = (line.partition("=") for line in kept.read_text().split("\0") if line)
        self.env = {name: value for name, _, value in pairs}
        return out

    def _call(self, command: list[str]) -> str:
        ran = subprocess.run(
            command, cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=RUN_S
        )
        assert ran.returncode == 0, f"exit {ran.returncode}: {ran.stdout}\n{ran.stderr}{self._log}"
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran.stdout

    def _serve(self, command: str) -> None:
        self.close()
        with (self.folder / "server.log").open("wb") as log:
            self._server = subprocess.Popen(
                command.split(), cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        ready = f"http://127.0.0.1:{self._ports['8000']}/readyz"
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._server.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=5) as answer:
                if answer.status == 200:
                    return
            time.sleep(0.1)
        pytest.fail(f"{command} did not become ready: {self._log}")

    @property
    def _log(self) -> str:
        file = self.folder / "server.log"
        return file.read_text(errors="replace")[-2000:] if file.exists() else ""


def console(code: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that is shown below it."""
    steps = re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]
    return [(command, shown) for command, _, shown in (step.partition("\n") for step in steps)]


def shape(text: str) -> list[object]:
    """What stays the same of an output whose values differ: keys, and the beginnings of lines."""
    return [
        _shape(json.loads(x)) if x[:1] == "{" else x.partition(":")[0] for x in text.split("\n")
    ]


def _shape(value: object) -> object:
    if isinstance(value, dict):
        return {key: _shape(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shape(each) for each in value]
    return type(value).__name__


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("reader"))
    try:
        yield shell
    finally:
        shell.close()


def test_block_runs(block: Any, shell: Shell) -> None:
    if block.note == "not run":
        pytest.skip("the page says why")
    printed = shell.run(block)
    shell.outputs.setdefault(block.page, []).extend(printed)
    if block.language == "console":
        for (command, shown), out in zip(console(block.code), printed, strict=True):
            if block.note == "answers differ":
                assert shape(out.strip()) == shape(shown.strip()), command
            else:
                assert out.strip() == shown.strip(), command


def test_the_two_adapters_of_the_first_page_answer_differently(shell: Shell) -> None:
    answers = [out for out in shell.outputs["README.md"] if out.startswith('"system_')]
    digests, texts = zip(*(answer.strip().split("\n") for answer in answers), strict=True)
    assert len(set(texts)) == len(set(digests)) == len(answers) == 2


def test_a_block_says_its_language_and_runs_unless_it_is_data(written_blocks: list[Any]) -> None:
    assert {block.language for block in written_blocks} <= {
        "sh", "console", "python", "json", "csv",
    }  # fmt: skip
    homeless = {block.page for block in written_blocks if block.language in ("sh", "python")}
    assert homeless <= {
        "README.md", "docs/benchmarks.md", "docs/doors.md", "docs/evidence.md",
        "docs/comparing.md", "docs/importing.md", "docs/jobs.md", "docs/storage.md",
        "docs/training.md", "CONTRIBUTING.md",
    }  # fmt: skip
