"""One table over all scenarios of a shape, from the JSON that their runs left.

Refuses to know how anything was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.scenarios import SCENARIOS
from benchmarks.workload import METRICS

HEADS = ("scenario", "what", "figure", "ours", "against", "ratio", "target met", "drift")


def write(folder: Path, shape: str) -> Path:
    """Write `summary_SHAPE.md` from what is in `folder`; scenarios that never ran are left out."""
    rows: list[tuple[str, ...]] = [HEADS, ("---",) * len(HEADS)]
    for name in SCENARIOS:
        file = folder / f"{name}_{shape}.json"
        if file.exists():
            facts = json.loads(file.read_text())
            rows += [(f"[{name}]({name}_{shape}.md)", *row) for row in _rows(facts)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    text = folder / f"summary_{shape}.md"
    text.write_text(
        f"# All scenarios, shape {shape}\n\n{table}\n\n"
        "Each line is from the last run of its scenario; its page says the command, the machine "
        "and the spread. Known figures were not measured here.\n"
    )
    return text


def _rows(facts: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for cell in facts["cells"]:
        if "runs" not in cell:
            reason = next(iter(cell["skipped"].values())).splitlines()[0]
            yield cell["cell"], f"skipped: {reason}", "", "", "", "", ""
            continue
        for judged in cell["judged"]:
            metric = METRICS[judged["metric"]]
            ours = f"{judged['ours'] * metric.scale:.{metric.digits}f}"
            for name, found in judged["against"].items():
                yield (
                    cell["cell"], metric.title, ours, name, _ratio(judged, found),
                    {True: "yes", False: "no", None: ""}[found["met"]], f"{cell['drift']:.2f}",
                )  # fmt: skip


def _ratio(judged: dict[str, Any], found: dict[str, float]) -> str:
    if judged["how"] == "minus":
        metric = METRICS[judged["metric"]]
        return f"{found['median'] * metric.scale:.{metric.digits}f} more"
    return f"{found['median']:.2f}" + (" of R(N)" if judged["ratio_ceiling"] else "")
