"""The arithmetic between timed runs and published figures, on numbers made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import ceilings, report, summary
from benchmarks.arms import Ours, Peft, Vllm
from benchmarks.calibrate import Calibration
from benchmarks.measure import Measured
from benchmarks.scenario import Cell, Judged, Scenario, Target
from benchmarks.scenarios.decode_step import SCENARIO as DECODE_STEP
from benchmarks.workload import SHAPES, Run

S, TINY = SHAPES["S"], SHAPES["tiny"]
ORIGIN = {
    "command": "rootstock bench --scenario all-different",
    "machine": {"cpu": "a processor", "cores": 2},
    "versions": {"torch": "2.13.0"},
}
CELL = Cell(
    label="all different at 16",
    arms=(Ours("mixed", 16), Peft("mixed", 16), Vllm("mixed", 16)),
    judged=(Judged("tokens_per_s", Target(at_least=4, aim=6), known={"S": {"llama.cpp": 15}}),),
    load=("mixed", 16),
)
SCENARIO = Scenario("all-different", "All different", [CELL])
STEADY = Calibration(40e9, 800e9)


def runs(*speeds: float) -> list[Run]:
    return [Run({"tokens_per_s": speed, "between_tokens_s": 1 / speed}) for speed in speeds]


@pytest.fixture
def measured() -> Measured:
    """The machine halves its speed in the second round, and only there both are slow."""
    slow = Calibration(20e9, 600e9)
    return Measured(
        CELL,
        {"rootstock": runs(40, 12, 30), "peft": runs(10, 4, 6)},
        [(STEADY, STEADY), (STEADY, slow), (STEADY, STEADY)],
        {"vllm": "vLLM is not there"},
    )


def test_a_ratio_is_that_of_two_runs_of_one_round(measured: Measured) -> None:
    assert report.paired(measured, CELL.judged[0], "peft", S) == pytest.approx([4, 3, 5])


def test_the_published_ratio_is_the_median_of_ratios_not_the_ratio_of_medians(
    measured: Measured,
) -> None:
    peft, known = report.comparisons(measured, CELL.judged[0], S)
    assert (peft.ratio.median, peft.ratio.least, peft.ratio.most) == pytest.approx((4, 3, 5))
    assert peft.theirs.median == pytest.approx(6)
    assert (known.against, known.measured) == ("llama.cpp (known)", False)
    assert known.ratio.median == pytest.approx(30 / 15)


def test_known_figures_of_one_shape_are_not_held_against_another(measured: Measured) -> None:
    assert [c.against for c in report.comparisons(measured, CELL.judged[0], TINY)] == ["peft"]


def test_rounds_that_do_not_pair_are_refused(measured: Measured) -> None:
    measured.runs["peft"].pop()
    with pytest.raises(ValueError, match="shorter"):
        report.paired(measured, CELL.judged[0], "peft", S)


def test_drift_is_the_fastest_calibration_over_the_slowest(measured: Measured) -> None:
    assert report.drift(measured) == pytest.approx(2.0)


def test_a_difference_is_taken_within_a_round_and_shown_in_milliseconds(
    measured: Measured,
) -> None:
    judged = Judged("between_tokens_s", Target(at_most=0.030), how="minus")
    rows = report.table(S, [replace(measured, cell=replace(CELL, judged=(judged,)))])
    row = dict(zip(report.HEADS, rows[0], strict=True))
    assert row["ratio"] == "-133.3 (-166.7--75.0) more"
    assert row["target"] == "≤ 30: met"


def test_the_table_says_ratio_spread_target_ceiling_and_drift(measured: Measured) -> None:
    peft, known = (dict(zip(report.HEADS, row, strict=True)) for row in report.table(S, [measured]))
    assert peft | {"ceiling": ""} == {
        "what": "all different at 16",
        "figure": "tokens/s",
        "ours": "30 (12-40)",
        "against": "peft",
        "theirs": "6 (4-10)",
        "ratio": "4.00 (3.00-5.00)",
        "target": "≥ 4, aim 6: met",
        "ceiling": "",
        "drift": "2.00",
    }
    assert peft["ceiling"].endswith("%)")
    assert (known["theirs"], known["target"]) == ("15", "≥ 4, aim 6: missed")


def test_a_cell_whose_own_arm_is_absent_is_a_line_that_says_so() -> None:
    absent = Measured(CELL, {}, skipped={"rootstock": "no server with --dtype int8\nlog"})
    (row,) = report.table(S, [absent])
    assert row[1] == "skipped: no server with --dtype int8"
    assert "judged" not in report.figures(SCENARIO, S, ORIGIN, [absent])["cells"][0]


def test_every_file_says_which_command_made_it_where(measured: Measured, tmp_path: Path) -> None:
    data, text, image = report.write(tmp_path, SCENARIO, S, ORIGIN, [measured])
    figures = json.loads(data.read_text())
    assert figures["command"] == ORIGIN["command"]
    assert figures["shape"]["prompt_tokens"] == 64
    (cell,) = figures["cells"]
    assert cell["judged"][0]["against"]["peft"]["median"] == pytest.approx(4)
    assert cell["judged"][0]["against"]["peft"]["met"] is True
    assert cell["skipped"] == {"vllm": "vLLM is not there"}
    assert len(cell["calibrations"]) == 3
    assert "vllm was not run: vLLM is not there" in text.read_text()
    assert "a processor" in text.read_text()
    assert image.read_bytes().startswith(b"\x89PNG")


def test_the_summary_has_a_line_for_each_comparison_of_each_scenario_that_ran(
    measured: Measured, tmp_path: Path
) -> None:
    report.write(tmp_path, SCENARIO, S, ORIGIN, [measured])
    absent = Measured(CELL, {}, skipped={"int8": "refused\nwith a log"})
    report.write(tmp_path, replace(SCENARIO, name="int8"), S, ORIGIN, [absent])
    lines = summary.write(tmp_path, "S").read_text().splitlines()
    assert [line.split(" | ")[4:7] for line in lines if line.startswith("| [all-different]")] == [
        ["peft", "4.00", "yes"],
        ["llama.cpp (known)", "2.00", "no"],
    ]
    (skipped,) = (line for line in lines if line.startswith("| [int8](int8_S.md)"))
    assert "skipped: refused |" in skipped


def test_the_step_ratio_is_the_base_over_base_and_adapters_in_bytes() -> None:
    assert ceilings.step_ratio(S, 16) == pytest.approx(0.76, abs=0.005)
    (judged,) = DECODE_STEP.cells[0].judged
    cell = DECODE_STEP.cells[0]
    base, mixed = (Run({"between_tokens_s": step}) for step in (0.019, 0.025))
    found = Measured(cell, {"base only": [base], "all different": [mixed]}, [(STEADY, STEADY)])
    (share,) = report.paired(found, judged, "all different", S)
    assert share == pytest.approx(0.019 / 0.025 / ceilings.step_ratio(S, 16))


def test_the_ceiling_follows_the_memory_alone_and_falls_with_different_adapters() -> None:
    alone = ceilings.tokens_per_s(S, "base", 1, STEADY)
    faster = ceilings.tokens_per_s(S, "base", 1, Calibration(80e9, 800e9))
    # 200 MB of weights a token at 40 GB/s; the prompt takes part of the time.
    assert 150 < alone < 200
    assert faster > 1.8 * alone
    base, mixed = (ceilings.tokens_per_s(S, mode, 16, STEADY) for mode in ("base", "mixed"))
    assert ceilings.step_ratio(S, 16) < mixed / base < 1
