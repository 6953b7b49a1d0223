"""Serving many adapters: our server over HTTP beside Hugging Face `generate` and PEFT.

`python -m benchmarks.serving` prints one table of interleaved runs and writes it, with a plot and
every figure, under `benchmarks/results/`. Refuses to know how anybody does the work.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import report, shapes
from benchmarks.load import Served
from benchmarks.measure import Cell, measure, runs
from benchmarks.peers import AdapterNames, Generate
from benchmarks.server import BASE_NAME, ServerFailed, import_adapters, serving
from benchmarks.workload import QUICK, SERVING_CPU_S, Settings, System, WrongAnswer

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("rootstock-server", "torch", "transformers", "peft", "httpx", "uvicorn")
QUIET_LOAD = 0.5  # runnable threads of other programs
LOG_WIDTH = 130  # of a pipe or a file, which have none of their own


def bench(settings: Settings, console: Console) -> list[Cell]:
    """Make the models, start the server, time everything. Raises ServerFailed, WrongAnswer."""
    torch.set_num_threads(settings.threads)
    with tempfile.TemporaryDirectory(prefix="rootstock-bench-") as name:
        folder, home = Path(name), Path(name) / "home"
        with console.status("making the base and the adapters"):
            base = shapes.make_base(settings, folder)
            adapters = shapes.make_adapters(settings, base, folder)
            import_adapters(home, base, adapters)
        with serving(home, base, settings.threads) as url:
            with console.status("loading the peers"):
                systems: list[System] = [
                    Served(url, BASE_NAME, settings.new_tokens),
                    Generate(base, settings.new_tokens),
                    AdapterNames(base, adapters, settings.new_tokens),
                ]
            return _measured(settings, systems, console)


def _measured(settings: Settings, systems: list[System], console: Console) -> list[Cell]:
    columns = (
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=runs(settings, systems))

        def done(what: str) -> None:
            progress.update(task, advance=1, description=what)

        return list(measure(settings, systems, done))


def origin(arguments: list[str]) -> dict[str, Any]:
    """What must be known to repeat a measurement: command, machine, versions."""
    libraries = {name: version(name) for name in LIBRARIES}
    return {
        "command": shlex.join(["python", "-m", "benchmarks.serving", *arguments]),
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0))},
        "versions": {"python": platform.python_version(), **libraries},
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    name = facts.get("model name", platform.machine())
    # Clouds hide the processor's number; family and model say which generation it is.
    return f"{name}, family {facts.get('cpu family', '?')}, model {facts.get('model', '?')}"


def show(cells: list[Cell], console: Console) -> None:
    heads, rows = report.table(cells)
    shown = Table(box=SIMPLE, padding=(0, 1))
    for head in heads:
        shown.add_column(head.replace(" ", "\n"), overflow="fold")
    for row in rows:
        shown.add_row(*(text.replace(" (", "\n(") for text in row))
    console.print(shown)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="prove in a minute that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    settings = QUICK if options.quick else SERVING_CPU_S
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    # The peers warn about one another's deprecations; nobody who measures can act on that.
    warnings.simplefilter("ignore", FutureWarning)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if (load := os.getloadavg()[0]) > QUIET_LOAD:
        console.print(f"others use this machine (load {load:.1f}): the figures will mean little")
    try:
        cells = bench(settings, console)
    except (ServerFailed, WrongAnswer) as error:
        console.print(f"the benchmark has no result: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; nothing was written")
        return 130
    show(cells, console)
    for file in report.write(options.out, settings, origin(arguments), cells):
        console.print(f"wrote {file}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
