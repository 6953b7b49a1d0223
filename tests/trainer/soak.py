"""The long forms of what test_training_resume and test_large_data show in short: a minute or two.

Not collected by `pytest`: `make soak` names this file.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import resource
from multiprocessing.connection import Connection
from pathlib import Path

from tests.trainer.killing import STEPS, killed_at

ROWS = 1_000_000
# Of a file of some 110 bytes a row: what is held of a row is its key, its place and its side.
BYTES_A_ROW = 120


def test_processes_killed_at_twenty_random_steps_leave_the_same_weights(
    decoder_folder: Path, tmp_path: Path
) -> None:
    steps = sorted(random.Random(11).sample(range(1, STEPS), 20))
    whole = killed_at(decoder_folder, tmp_path / "whole", [])
    assert killed_at(decoder_folder, tmp_path / "killed", steps) == whole


def test_a_million_rows_are_checked_and_split_in_bounded_memory(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number in range(ROWS):
            turns = [("user", f"question {number} about {number * 7919}"), ("assistant", "yes")]
            chat = [{"role": role, "content": text} for role, text in turns]
            lines.write(json.dumps({"messages": chat}) + "\n")
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    process = processes.Process(target=read, args=(file, theirs))
    process.start()
    rows, grown = ours.recv()
    process.join(60)
    print(f"\n{rows:,} rows, {file.stat().st_size / 1e6:.0f} MB: {grown / 1e6:.0f} MB of memory")
    assert rows == ROWS
    assert grown < ROWS * BYTES_A_ROW


def read(file: Path, found: Connection) -> None:
    """In a process of its own, whose largest memory is its own."""
    from rootstock_trainer.data import open_rows
    from rootstock_trainer.spec import TrainSpec

    few = file.with_name("few.jsonl")
    with file.open("rb") as lines, few.open("wb") as some:
        some.writelines(line for _, line in zip(range(200), lines, strict=False))
    spec = TrainSpec(method="lora", base="demo", base_path=file.parent, data=few, name="rows")
    open_rows(spec)  # imports and caches
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = open_rows(spec.model_copy(update={"data": file}))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    found.send((len(rows.train) + len(rows.held_out), grown))
