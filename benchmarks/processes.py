"""Where the processor time of a request goes: to the front end, the engine, or who asks.

`python -m benchmarks.processes` writes `processes_S.md`. Refuses to know any other system.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
from rootstock_cli.bench.origin import LIBRARIES, origin

from benchmarks.arms import Ours
from benchmarks.reading import EMBEDDED, PASSES, Classify, Embed
from benchmarks.scenario import Arm
from benchmarks.stage import Stage
from benchmarks.workload import SHAPES, Shape

ROUNDS = 3  # after a warm one
PARTS = ENGINE, FRONT_END, ASKING = ("engine", "front end", "who asks")


@dataclass(frozen=True)
class Row:
    """`units` of `unit` are what one run of `arm` answers."""

    label: str
    unit: str
    arm: Arm
    units: int


def rows(shape: Shape) -> list[Row]:
    tokens = shape.requests(16) * shape.new_tokens
    return [
        Row("1 head, one text", "text", Classify(1, 1), PASSES),
        Row("16 heads, one text", "text", Classify(16, 1), PASSES),
        Row("embedding, one text", "text", Embed("rootstock", 1), EMBEDDED),
        Row("embedding, 64 texts at a time", "text", Embed("rootstock", 64), EMBEDDED),
        Row("base at 16", "token", Ours("base", 16), tokens),
        Row("all different at 16", "token", Ours("mixed", 16), tokens),
    ]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.processes", description=__doc__)
    parser.add_argument("--shape", choices=("S", "M"), default="S")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    shape = SHAPES[options.shape]
    with (
        tempfile.TemporaryDirectory(prefix="rootstock-processes-") as name,
        Stage(shape, Path(name), Path(name)) as stage,
    ):
        lines = [_line(row, stage) for row in rows(shape)]
    text = _page(shape, lines)
    (options.out / f"processes_{shape.name}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _line(row: Row, stage: Stage) -> str:
    work = row.arm.open(stage)
    found = [_spent(lambda number=number: work(number), row.units) for number in range(ROUNDS + 1)]
    shown = [median(each[part] for each in found[1:]) for part in ("wall", *PARTS)]
    stage.close()  # so that the next row's server is the only one
    cells = " | ".join(f"{value * 1e3:.2f}" for value in shown)
    return f"| {row.label} | {row.unit} | {cells} |"


def _spent(work: Callable[[], object], units: int) -> dict[str, float]:
    """Seconds per unit: on the wall, and of the processor by process."""
    before, begun = _times(), time.perf_counter()
    work()
    wall, after = time.perf_counter() - begun, _times()
    return {
        "wall": wall / units,
        **{part: (after[part] - before[part]) / units for part in PARTS},
    }


def _times() -> dict[str, float]:
    """Processor seconds until now. The engine is the server's child, the server is ours."""
    found = dict.fromkeys(PARTS, 0.0)
    here = psutil.Process(os.getpid())
    found[ASKING] = sum(here.cpu_times()[:2])
    for child in here.children(recursive=True):
        part = ENGINE if "rootstock_server.engine.worker" in child.cmdline() else FRONT_END
        found[part] += sum(child.cpu_times()[:2])
    return found


def _page(shape: Shape, lines: Sequence[str]) -> str:
    command = f"python -m benchmarks.processes --shape {shape.name}"
    facts = origin([command], LIBRARIES)
    machine, versions = facts["machine"], facts["versions"]
    return "\n".join(
        [
            f"# Processor time by process, shape {shape.name}, in milliseconds",
            "",
            f"`{command}`: medians of {ROUNDS} runs after a warm one. The heads and embeddings",
            "are MiniLM's. At 16 all three processes want the cores at once, and the engine's",
            "threads wait for one another spinning, which counts as theirs.",
            "",
            "| what is asked | per | wall | engine | front end | who asks |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
            *lines,
            "",
            f"{machine['cpu']}, {machine['cores']} cores; torch {versions['torch']}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
