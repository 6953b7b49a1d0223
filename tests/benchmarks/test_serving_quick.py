"""The whole benchmark on a tiny shape: real server process, real peers, real files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_quick_run_prints_one_table_and_writes_what_it_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.serving", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all different" in done.stdout
    figures = json.loads((tmp_path / "serving_quick.json").read_text())
    cells = {cell["mode"]: cell for cell in figures["cells"]}
    assert set(cells["base"]["systems"]) == {"rootstock", "transformers", "peft"}
    assert set(cells["mixed"]["systems"]) == {"rootstock", "peft"}
    for cell in cells.values():
        (ours,), (theirs,) = (cell["systems"][x]["runs"] for x in ("rootstock", "peft"))
        assert ours["tokens"] == theirs["tokens"] == 2 * 8
        ratio = ours["tokens_per_s"] / theirs["tokens_per_s"]
        assert cell["ratios"]["peft"]["median"] == pytest.approx(ratio)
    assert figures["command"].startswith("python -m benchmarks.serving --quick")
    assert (tmp_path / "serving_quick.md").stat().st_size > 0
    assert (tmp_path / "serving_quick.png").stat().st_size > 0
