"""Bases at full shape, one at a time, against Hugging Face and PEFT: minutes and gigabytes.

Not collected by `pytest`: `make soak` names this file (ARGS="-k distilbert" chooses one).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("shape.py")
NAMES = ["distilbert", "m2m100-418m", "tinyllama-1.1b", "gemma-2-2b", "phi-2"]  # by size
LIMIT_GIB = 24
TOLERANCE = 6e-2  # of the largest output, as the load-time probe allows in bf16


@pytest.mark.parametrize("name", NAMES)
def test_the_packed_engine_answers_as_hugging_face_does(name: str, tmp_path: Path) -> None:
    """A process of its own for each: its peak memory is its own, and is given back."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), name, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(report))
    assert report["probe_error"] < TOLERANCE
    assert report["largest_error"] < TOLERANCE
    assert report["compared"] >= report["rows"]
    assert report["peak_gib"] < LIMIT_GIB
