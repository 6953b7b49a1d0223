"""The arithmetic between timed runs and published figures, on numbers made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.measure import Cell, Timed
from benchmarks.workload import QUICK, Run

ORIGIN = {
    "command": "python -m benchmarks.serving",
    "machine": {"cpu": "a processor", "cores": 2},
    "versions": {"torch": "2.13.0"},
}


def timed(tokens_per_s: float, calibration: tuple[float, float] = (1.0, 1.0)) -> Timed:
    streamed = Run(100 / tokens_per_s, 100, (0.03, 0.01, 0.02), (0.004, 0.002))
    return Timed(streamed, calibration)


@pytest.fixture
def cell() -> Cell:
    """The machine halves its speed in the second round, and only there both are slow."""
    return Cell(
        "mixed",
        2,
        {
            "rootstock": [timed(40), timed(12, (1.0, 1.5)), timed(30)],
            "peft": [timed(10), timed(4), timed(6, (0.75, 1.0))],
        },
    )


def test_a_ratio_is_that_of_two_runs_of_one_round(cell: Cell) -> None:
    assert report.paired_ratios(cell, "peft") == pytest.approx([4, 3, 5])


def test_the_published_ratio_is_the_median_of_ratios_not_the_ratio_of_medians(cell: Cell) -> None:
    spread = report.Spread.of(report.paired_ratios(cell, "peft"))
    assert (spread.median, spread.least, spread.most) == pytest.approx((4, 3, 5))
    medians = [report.Spread.of(report.speeds(cell, name)).median for name in cell.timed]
    assert medians == pytest.approx([30, 6])


def test_rounds_that_do_not_pair_are_refused(cell: Cell) -> None:
    cell.timed["peft"].pop()
    with pytest.raises(ValueError, match="shorter"):
        report.paired_ratios(cell, "peft")


def test_drift_is_the_slowest_calibration_over_the_fastest(cell: Cell) -> None:
    assert report.drift(cell) == pytest.approx(2.0)


def test_the_table_says_ratio_spread_latencies_and_drift(cell: Cell) -> None:
    heads, (row,) = report.table([cell])
    assert dict(zip(heads, row, strict=True)) == {
        "adapters": "all different",
        "at once": "2",
        "rootstock tok/s": "30 (12-40)",
        "peft tok/s": "6 (4-10)",
        "over peft": "4.00 (3.00-5.00)",
        "first token ms": "20.0",
        "between tokens ms": "3.0",
        "drift": "2.00",
    }


def test_a_peer_that_lacks_a_mode_leaves_its_places_empty(cell: Cell) -> None:
    base = Cell("base", 2, {**cell.timed, "transformers": [timed(10), timed(4), timed(5)]})
    heads, (first, second) = report.table([base, cell])
    place = heads.index("over transformers")
    assert first[place] == "4.00 (3.00-6.00)"
    assert second[place] == ""


def test_every_file_says_which_command_made_it_where(cell: Cell, tmp_path: Path) -> None:
    data, text, image = report.write(tmp_path, QUICK, ORIGIN, [_as(cell, m) for m in QUICK.modes])
    figures = json.loads(data.read_text())
    assert figures["command"] == ORIGIN["command"]
    assert figures["settings"]["prompt_tokens"] == QUICK.prompt_tokens
    assert figures["cells"][2]["ratios"]["peft"]["rounds"] == pytest.approx([4, 3, 5])
    assert ORIGIN["command"] in text.read_text()
    assert "a processor" in text.read_text()
    assert image.read_bytes().startswith(b"\x89PNG")
    drawn = report.plot(QUICK, ORIGIN, [_as(cell, m) for m in QUICK.modes])
    assert ORIGIN["command"] in drawn.get_suptitle()


def _as(cell: Cell, mode: str) -> Cell:
    return Cell(mode, cell.concurrency, cell.timed)  # type: ignore[arg-type]
