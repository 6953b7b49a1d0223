"""Scenarios on a tiny shape: real server processes, real peers, real files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import encoders, reading
from benchmarks.measure import measure
from benchmarks.scenario import Cell, Judged, Target, Work
from benchmarks.scenarios import SCENARIOS, SHORT
from benchmarks.stage import Server, Stage, adapter_memory_mib
from benchmarks.workload import SHAPES, Absent, Run, WrongAnswer

ROOT = Path(__file__).parents[2]
TINY = SHAPES["tiny"]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(TINY, tmp_path, tmp_path / "no-vllm")


def bench(out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rootstock_cli.main", "bench", "--shape", "tiny"]
    command += ["--rounds", "1", "--out", str(out), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)


def cells_of(file: Path) -> dict[str, dict[str, Any]]:
    return {cell["cell"]: cell for cell in json.loads(file.read_text())["cells"]}


def test_two_scenarios_print_tables_and_write_what_they_measured(tmp_path: Path) -> None:
    done = bench(tmp_path, "--scenario", "all-different,http")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped vllm: vLLM is not in" in done.stdout
    (cell,) = cells_of(tmp_path / "all-different_tiny.json").values()
    assert set(cell["runs"]) == {"rootstock", "peft"}
    (ours,), (theirs,) = cell["runs"].values()
    ratio = ours["tokens_per_s"] / theirs["tokens_per_s"]
    assert cell["judged"][0]["against"]["peft"]["median"] == pytest.approx(ratio)
    assert cell["ceiling_tokens_per_s"] > ours["tokens_per_s"]
    assert all(theirs[f"{kind}_s"] > 0 for kind in ("first_token", "between_tokens"))
    served = cells_of(tmp_path / "http_tiny.json")
    assert set(served) == {"base only at 16", "all different at 16"}
    assert all("engine in-process" in each["runs"] for each in served.values())
    for end in ("md", "png"):
        assert (tmp_path / f"http_tiny.{end}").stat().st_size > 0


def test_cold_adapters_are_new_to_the_server_in_every_round(tmp_path: Path) -> None:
    done = bench(tmp_path, "--scenario", "cold")
    assert done.returncode == 0, done.stdout + done.stderr
    (cell,) = cells_of(tmp_path / "cold_tiny.json").values()
    first, gaps = cell["judged"]
    assert (first["metric"], first["how"]) == ("first_token_s", "minus")
    (cold,), (warm,) = cell["runs"]["cold adapters"], cell["runs"]["warm adapters"]
    difference = cold["first_token_s"] - warm["first_token_s"]
    assert first["against"]["warm adapters"]["median"] == pytest.approx(difference)
    assert gaps["metric"] == "between_tokens_p95_s"


def test_a_scenario_nobody_wrote_is_refused_with_the_names_of_those_there_are(
    tmp_path: Path,
) -> None:
    done = bench(tmp_path, "--scenario", "warp")
    assert done.returncode == 1
    assert "there is none of that name" in done.stderr
    assert all(name in done.stderr for name in SCENARIOS)


def test_the_short_set_makes_no_thousand_adapters_and_shows_nothing_twice() -> None:
    assert set(SCENARIOS) - set(SHORT) == {"many", "all-different", "base", "alone"}
    assert [len(each.cells) for each in SCENARIOS.values()] == [
        9, 1, 3, 1, 1, 2, 3, 1, 1, 2, 2, 2, 2,
    ]  # fmt: skip
    for scenario in SCENARIOS.values():
        for cell in scenario.cells:
            assert len({arm.name for arm in cell.arms}) == len(cell.arms)


def test_the_page_lists_every_scenario_once_in_order() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE) == list(SCENARIOS)


def test_arms_take_turns_and_an_absent_one_is_left_out_with_its_reason(stage: Stage) -> None:
    log: list[str] = []
    arms = (Counting("a", log), Counting("b", log), Counting("c", log, absent=True))
    cell = Cell("cell", arms, (Judged("tokens_per_s", Target(at_least=1)),))
    said: list[str] = []
    found = measure(cell, stage, 2, said.append)
    assert log == ["a0", "b0", "a1", "b1", "a2", "b2"]  # a warm round, two that count
    assert {name: len(runs) for name, runs in found.runs.items()} == {"a": 2, "b": 2}
    assert found.skipped == {"c": "c is not installed"}
    assert len(found.calibrations) == 2
    assert all(each.bytes_per_s > 1e8 for pair in found.calibrations for each in pair)


def test_without_the_judged_arm_nothing_is_run(stage: Stage) -> None:
    log: list[str] = []
    arms = (Counting("a", log, absent=True), Counting("b", log))
    cell = Cell("cell", arms, (Judged("tokens_per_s", Target(at_least=1)),))
    assert measure(cell, stage, 2, print).runs == {}
    assert log == []


def test_a_server_with_few_slots_knows_more_adapters_than_it_has_room_for(stage: Stage) -> None:
    with stage:
        work = SCENARIOS["many"].cells[0].arms[0].open(stage)
        assert work(0).figures["tokens_per_s"] > 0
        home = stage.home(TINY.many)
        assert len(list((home / "blobs").rglob("*"))) > 2 * TINY.many
        assert stage.server(Server(TINY.many, slots=32))  # the same server, not a second one
    # 12 (rank) · 13,568 (in + out of seven linears) · 12 layers · 4 bytes, for each of 32.
    assert adapter_memory_mib(SHAPES["S"], 32) == round(12 * 13568 * 12 * 4 * 32 / 2**20)


def test_three_systems_agree_on_the_embeddings_that_they_are_timed_for(stage: Stage) -> None:
    texts = reading.texts(9, 1)
    assert len({len(text.split()) for text in texts}) > 4  # uneven
    with stage:
        ours, *others = (open(stage).embed(texts) for open in reading.OPEN.values())
    for theirs in others:
        assert theirs.shape == ours.shape == (9, 384)
        assert np.abs(ours - theirs).max() < 1e-4


def test_heads_are_asked_for_together_and_all_of_them_answer(stage: Stage) -> None:
    with stage:
        run = reading.Classify(encoders.HEADS, 2).open(stage)(1)
        assert run.figures["seconds"] > 0
        with pytest.raises(WrongAnswer, match="HTTP 4"):
            encoders.ours(stage).classify(["a text"], encoders.HEADS + 1)


class Counting:
    """An arm that notes when it runs, and is done at once."""

    def __init__(self, name: str, log: list[str], absent: bool = False) -> None:
        self.name, self._log, self._absent = name, log, absent

    def open(self, stage: Stage) -> Work:
        if self._absent:
            raise Absent(f"{self.name} is not installed")

        def work(round_number: int) -> Run:
            self._log.append(f"{self.name}{round_number}")
            return Run({"tokens_per_s": 1.0})

        return work
