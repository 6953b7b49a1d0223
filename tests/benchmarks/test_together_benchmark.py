"""The benchmark of joint training: every arm runs, and what it compares is the same job."""

from __future__ import annotations

from pathlib import Path

from rootstock_adapters.base_card import BaseCard
from rootstock_trainer.base import Base

from benchmarks.shapes import make_base
from benchmarks.together import Jobs, lines, measure
from benchmarks.workload import SHAPES


def test_all_arms_run_and_train_the_same(tmp_path: Path) -> None:
    make_base(SHAPES["tiny"], tmp_path)
    base = Base(BaseCard.read(tmp_path, "tiny"), tmp_path)
    figures = measure(Jobs(base, count=2, steps=2), rounds=1)
    assert figures.difference < 1e-4
    assert all(each.least > 0 for each in figures.seconds.values())
    assert "| one job, PEFT and Trainer |" in "\n".join(lines(figures, "tiny"))
