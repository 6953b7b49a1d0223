"""Two comparisons of methods: one task where a head is enough, one where it cannot be.

`python -m benchmarks.comparing --task survey --task form` writes the tables and pictures of
`rootstock compare` into benchmarks/results. Refuses to know how methods are trained and judged.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rootstock_cli import demo
from rootstock_cli.demo.scribe import Scribe

RESULTS = Path(__file__).parent / "results"
SURVEY = Path(demo.__file__).parent / "survey.csv"
# The demo's base has read shops' worlds 1; it has never seen a brace or a quotation mark's pair.
FORM_SEED = 3


class Task(NamedTuple):
    base: str
    methods: Sequence[str]
    write: Callable[[Path, int], None]
    rows: int


def survey(file: Path, rows: int) -> None:
    """The demo's survey: every text has one of three moods."""
    with SURVEY.open(newline="", encoding="utf-8") as stream:
        chosen = list(csv.DictReader(stream))[:rows]
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        writer.writerows([row["text"], row["sentiment"]] for row in chosen)


def form(file: Path, rows: int) -> None:
    """Letters to the invented shop, to be answered with a form in JSON: a format that the base was
    never shown, filled with what it has to copy from the letter."""
    scribe = Scribe(random.Random(FORM_SEED))
    with file.open("w", encoding="utf-8") as stream:
        for _ in range(rows):
            facts = scribe.case()
            letter = scribe.customer(facts)
            said: dict[str, Any] = {
                "product": facts["kind"],
                "wish": facts["wish"],
                "order": int(facts["order"]) if facts["order"] else None,
            }
            turns = [
                {"role": "user", "content": f"Fill in the form: {letter}"},
                {"role": "assistant", "content": json.dumps(said)},
            ]
            stream.write(json.dumps({"messages": turns}) + "\n")


TASKS = {
    "survey": Task(
        "minilm",
        ("head", "bitfit", "lora:rank=4", "lora:rank=16", "bottleneck", "full"),
        survey,
        475,
    ),
    "form": Task(
        "demo",
        ("few-shot", "soft_prompt", "lora:rank=4",
         "lora:rank=16", "bottleneck", "full"),
        form,
        200,
    ),
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.comparing", description=__doc__)
    parser.add_argument("--task", action="append", choices=sorted(TASKS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, help="fewer rows, for a machine in a hurry")
    parser.add_argument("--methods", help="other variants than the task's own")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for name in options.task or sorted(TASKS):
        _compare(name, TASKS[name], options)
    return 0


def _compare(name: str, task: Task, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="rootstock-compare-") as folder:
        data = Path(folder) / ("rows.csv" if task.write is survey else "rows.jsonl")
        task.write(data, options.rows or task.rows)
        made = Path(folder) / "made"
        command = [sys.executable, "-m", "rootstock_cli.main", "compare", "--base", task.base]
        command += ["--data", str(data), "--as", name, "--seeds", str(options.seeds)]
        command += ["--methods", options.methods or ",".join(task.methods)]
        command += ["--home", f"{folder}/home", "--out", str(made)]
        subprocess.run(command, check=True)
        options.out.mkdir(parents=True, exist_ok=True)
        for file, kind in (("table.md", "md"), ("table.json", "json"), ("picture.png", "png")):
            (options.out / f"compare_{name}.{kind}").write_bytes((made / file).read_bytes())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
