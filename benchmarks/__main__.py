"""Run scenarios, one after the other, and write what they measured: `rootstock bench --scenario`.

Refuses to know what a scenario compares.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rootstock_cli.bench.origin import LIBRARIES, origin

from benchmarks import report, summary
from benchmarks.measure import Measured, measure
from benchmarks.scenario import Scenario
from benchmarks.scenarios import SCENARIOS, SHORT
from benchmarks.server import ServerFailed
from benchmarks.stage import Stage
from benchmarks.workload import SHAPES, Shape, WrongAnswer

ROOT = Path(__file__).resolve().parents[1]
PEERS = ("sentence-transformers", "onnxruntime")
QUIET_LOAD = 0.5  # runnable threads of other programs
LOG_WIDTH = 160  # of a pipe or a file, which have none of their own


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    chosen = _chosen(options.scenario)
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    # The peers warn about one another's deprecations; nobody who measures can act on that.
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if (load := os.getloadavg()[0]) > QUIET_LOAD:
        console.print(f"others use this machine (load {load:.1f}): the figures will mean little")
    try:
        _run(chosen, SHAPES[options.shape], options, console)
    except (ServerFailed, WrongAnswer) as error:
        console.print(f"the scenario has no result: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; what was not finished was not written")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--scenario", default="short", help=f"short, or: {', '.join(SCENARIOS)}")
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--rounds", type=int, default=3, help="that count, after a warm one")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument(
        "--vllm", type=Path, default=ROOT / ".venv-vllm", help="the environment that has vLLM"
    )
    return parser


def _chosen(text: str) -> list[Scenario]:
    names = SHORT if text == "short" else text.split(",")
    if unknown := [name for name in names if name not in SCENARIOS]:
        known = ", ".join(("short", *SCENARIOS))
        raise SystemExit(f"--scenario {unknown[0]}: there is none of that name; known: {known}")
    return [SCENARIOS[name] for name in names]


def _run(
    chosen: Sequence[Scenario], shape: Shape, options: argparse.Namespace, console: Console
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="rootstock-bench-") as name,
        Stage(shape, Path(name), options.vllm) as stage,
    ):
        torch.set_num_threads(stage.threads)
        for scenario in chosen:
            command = ["rootstock", "bench", "--scenario", scenario.name]
            command += ["--shape", shape.name, "--rounds", str(options.rounds)]
            cells = _measured(scenario, stage, options.rounds, console)
            show(scenario, shape, cells, console)
            origins = origin(command, (*LIBRARIES, *PEERS))
            for file in report.write(options.out, scenario, shape, origins, cells):
                console.print(f"wrote {file}", markup=False)
            summary.write(options.out, shape.name)
            if shape.name == "M":
                stage.close()  # many copies of a large base would not fit


def _measured(scenario: Scenario, stage: Stage, rounds: int, console: Console) -> list[Measured]:
    with console.status(scenario.says) as status:

        def say(what: str) -> None:
            status.update(what)
            if not console.is_terminal:
                console.print(what, markup=False)

        return [measure(cell, stage, rounds, say) for cell in scenario.cells]


def show(scenario: Scenario, shape: Shape, cells: Sequence[Measured], console: Console) -> None:
    shown = Table(title=f"{scenario.says} (shape {shape.name})", box=SIMPLE, padding=(0, 1))
    for head in report.HEADS:
        shown.add_column(head, overflow="fold")
    for row in report.table(shape, cells):
        shown.add_row(*(text.replace(" (", "\n(") for text in row))
    console.print(shown)
    skipped = {name: why for measured in cells for name, why in measured.skipped.items()}
    for name, why in skipped.items():
        console.print(f"skipped {name}: {why.splitlines()[0]}", markup=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
