"""The `rootstock-edge` command as a user runs it: a process, its output and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = Path(sys.executable).with_name("rootstock-edge")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True)


def test_classify_prints_a_line_per_text(package_dir: Path) -> None:
    done = run("classify", package_dir, "good good", "bad")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "mild=happy 0.881  sharp=happy 0.982  good good",
        "mild=sad 0.731  sharp=sad 0.881  bad",
    ]


def test_classify_json_has_every_probability(package_dir: Path) -> None:
    done = run("classify", package_dir, "good", "--json")
    (answer,) = json.loads(done.stdout)
    assert answer["text"] == "good"
    assert answer["heads"]["mild"]["label"] == "happy"
    assert answer["heads"]["mild"]["probs"]["sad"] == pytest.approx(0.268941, abs=1e-6)


def test_show_says_what_is_inside_and_that_it_is_whole(package_dir: Path) -> None:
    done = run("show", package_dir)
    assert done.returncode == 0
    assert "head    sharp: happy, sad  (sharp:1  sha256:1)" in done.stdout
    assert "as exported" in done.stdout
    assert "parity  3 texts, probabilities within 2.0e-07 of the server's" in done.stdout


@pytest.mark.parametrize("command", [("show",), ("classify", "good")])
def test_a_tampered_package_is_one_line_and_exit_code_1(package_dir: Path, command) -> None:
    with (package_dir / "model.onnx").open("ab") as model:
        model.write(b"!")
    done = run(command[0], package_dir, *command[1:])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("rootstock-edge: ")
    assert len(done.stderr.splitlines()) == 1


def test_bytes_that_are_not_unicode_are_one_line_and_exit_code_1(package_dir: Path) -> None:
    done = subprocess.run([COMMAND, "classify", package_dir, b"\xff"], capture_output=True)
    assert done.returncode == 1
    assert done.stderr == b"rootstock-edge: texts[0] is not a str of valid Unicode\n"


def test_a_command_line_that_makes_no_sense_exits_with_2(package_dir: Path) -> None:
    assert run().returncode == 2
    assert run("classify", package_dir).returncode == 2


def test_a_reader_that_leaves_early_causes_no_traceback(package_dir: Path) -> None:
    texts = ["good"] * 3000
    with subprocess.Popen(
        [COMMAND, "classify", package_dir, *texts, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
