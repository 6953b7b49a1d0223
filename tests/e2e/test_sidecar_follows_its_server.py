"""A sidecar beside a server ends with it, even when the server is killed without a word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_sidecar_ends_when_the_pipe_of_its_server_does(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rootstock_trainer.sidecar", "--home", str(tmp_path)]
    with subprocess.Popen(
        [*command, "--until-stdin-ends"], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as sidecar:
        assert sidecar.stderr is not None and sidecar.stdin is not None
        assert b"waiting for jobs" in sidecar.stderr.readline()
        assert sidecar.poll() is None
        sidecar.stdin.close()  # what the kernel does for a server that was killed
        assert sidecar.wait(120) == 0
