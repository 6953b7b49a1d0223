"""Where the time of a decode step goes: by part of the engine, in a process of its own.

`python -m benchmarks.profile` writes `profile_S.md`. Refuses to know any other system.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import median

import torch
from rootstock_cli.bench.origin import LIBRARIES, origin
from torch.profiler import ProfilerActivity, profile

from benchmarks import ceilings
from benchmarks.calibrate import calibrate
from benchmarks.inprocess import ENVIRONMENT, Loop
from benchmarks.stage import Stage
from benchmarks.workload import ADAPTERS, SHAPES, Mode, Shape, asks

STEPS = 40
PARTS = {
    "rootstock_cpu::linear": "linears of the base",
    "mkldnn::_linear_pointwise": "linears of the base",
    "rootstock_cpu::delta": "updates of adapters",
    "rootstock_cpu::attend": "attention and cache",
    "rootstock_cpu::rms_norm": "norms, rotary embedding, gates",
    "rootstock_cpu::rotate": "norms, rotary embedding, gates",
    "rootstock_cpu::gated": "norms, rotary embedding, gates",
}
OTHER, REST = "other operations of torch", "Python and dispatch"
CELLS: tuple[tuple[Mode, int], ...] = tuple(product(("base", "mixed"), (1, 16)))


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        # The settings of an engine's threads are read once, when OpenMP starts.
        again = [sys.executable, "-m", "benchmarks.profile", *arguments]
        return subprocess.run(again, env={**os.environ, **ENVIRONMENT}).returncode
    shape = SHAPES[options.shape]
    with (
        tempfile.TemporaryDirectory(prefix="rootstock-profile-") as name,
        Stage(shape, Path(name), Path(name)) as stage,
    ):
        loop = Loop(stage.base, stage.home(ADAPTERS), stage.threads)
        try:
            columns = [_column(loop, shape, mode, rows) for mode, rows in CELLS]
        finally:
            loop.close()
    text = _page(shape, columns)
    (options.out / f"profile_{shape.name}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _column(loop: Loop, shape: Shape, mode: Mode, rows: int) -> dict[str, float]:
    """Milliseconds of one step by part; `step` is measured without the profiler."""
    loop.begin([asdict(ask) for ask in asks(shape, mode, rows, 0, ADAPTERS)], 2 * STEPS + 8)
    found = [calibrate()]
    step = median(_timed(loop) for _ in range(STEPS)) * 1e3
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(STEPS):
            loop.step()
    found.append(calibrate())
    loop.finish()
    parts: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        parts[PARTS.get(event.key, OTHER)] += event.self_cpu_time_total / 1e3 / STEPS
    floor = ceilings.step_s(shape, mode, rows, ceilings.typical(found)) * 1e3
    known = sum(parts.values())
    return {"step": step, **parts, REST: max(0.0, step - known), "floor": floor}


def _timed(loop: Loop) -> float:
    begun = time.perf_counter()
    loop.step()
    return time.perf_counter() - begun


def _page(shape: Shape, columns: Sequence[dict[str, float]]) -> str:
    heads = [f"{mode} at {rows}" for mode, rows in CELLS]
    names = ["step", *dict.fromkeys(PARTS.values()), OTHER, REST, "floor"]
    command = f"python -m benchmarks.profile --shape {shape.name}"
    lines = [
        f"# A decode step of shape {shape.name}, in milliseconds",
        "",
        f"`{command}`: the engine in one process, {STEPS} steps after the prompts. *Step* is the",
        "median without a profiler; the parts are the profiler's own times of operations, which",
        "it makes a little longer; *floor* is what bytes and operations take at the speed that",
        "was measured before and after.",
        "",
        "| part | " + " | ".join(heads) + " |",
        "| --- |" + " ---: |" * len(heads),
    ]
    for name in names:
        cells = " | ".join(f"{column.get(name, 0.0):.2f}" for column in columns)
        lines.append(f"| {name} | {cells} |")
    facts = origin([command], LIBRARIES)
    machine, versions = facts["machine"], facts["versions"]
    lines += ["", f"{machine['cpu']}, {machine['cores']} cores; torch {versions['torch']}.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main(sys.argv[1:]))
