"""What `make gpu` writes: JSON with every figure, a page of tables, and a plot where it can.

Refuses to know how anything was measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# (adapters, figure, least): the shares that are asked for, where every row has its own adapter
TARGETS = ((1, "of_base", 0.97), (8, "of_base", 0.93), (64, "of_ceiling", 0.95))
MOST_OVER_FLOOR = 1.15


def write(folder: Path, name: str, results: dict[str, Any]) -> list[Path]:
    """Write what there is so far as `gpu_<name>.…`; a later call overwrites it."""
    folder.mkdir(parents=True, exist_ok=True)
    data, page = folder / f"gpu_{name}.json", folder / f"gpu_{name}.md"
    data.write_text(json.dumps(results, indent=1) + "\n")
    page.write_text(markdown(results))
    files = [data, page]
    if results.get("decode") and (picture := _plot(folder / f"gpu_{name}.png", results["decode"])):
        files.append(picture)
    return files


def verdicts(cells: list[dict[str, Any]]) -> list[str]:
    """One line per target that a cell speaks to: reached or missed, and by what figure."""
    lines = []
    for adapters, figure, least in TARGETS:
        for cell in cells:
            if cell["adapters"] == cell["rows"] == adapters:
                word = "reached" if cell[figure] >= least else "missed"
                name = figure.replace("_", " ")
                lines.append(f"{word}: {adapters} adapters, {cell[figure]:.3f} {name} ({least})")
    for cell in cells:
        word = "reached" if cell["over_floor"] <= MOST_OVER_FLOOR else "missed"
        lines.append(
            f"{word}: batch {cell['rows']}, {cell['adapters']} adapters, "
            f"{cell['over_floor']:.3f} of the byte floor ({MOST_OVER_FLOOR})"
        )
    return lines


def markdown(results: dict[str, Any]) -> str:
    origin = results.get("origin", {})
    lines = ["# The GPU backend", "", f"`{origin.get('command', '')}` on {origin.get('device')}, "]
    lines += [", ".join(f"{k} {v}" for k, v in origin.get("versions", {}).items()), ""]
    if results.get("failed"):
        lines += ["Parts that broke:", *(f"- {x}" for x in results["failed"]), ""]
    tables = (
        ("Parity with plain torch", "parity"), ("Decode steps", "decode"), ("Prompts", "prompts"),
        ("Without recordings", "unrecorded"), ("Where a step's time goes", "profile"),
    )  # fmt: skip
    for title, name in tables:
        if results.get(name):
            lines += [f"## {title}", "", *_table(results[name]), ""]
    if results.get("decode"):
        lines += ["## Targets", "", *(f"- {line}" for line in verdicts(results["decode"])), ""]
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> list[str]:
    heads = [key for key, value in rows[0].items() if not isinstance(value, list)]
    lines = [
        "| " + " | ".join(h.replace("_", " ") for h in heads) + " |",
        "|---" * len(heads) + "|",
    ]
    for row in rows:
        shown = (
            f"{x:.4g}" if isinstance(x, float) else str(x) for x in (row.get(h) for h in heads)
        )
        lines.append("| " + " | ".join(shown) + " |")
    return lines


def _plot(file: Path, cells: list[dict[str, Any]]) -> Path | None:
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        return None
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for adapters in sorted({cell["adapters"] for cell in cells}):
        own = [cell for cell in cells if cell["adapters"] == adapters]
        rows = [str(cell["rows"]) for cell in own]
        name = f"{adapters} adapters" if adapters else "base"
        left.plot(rows, [cell["over_floor"] for cell in own], marker="o", label=name)
        if adapters:
            right.plot(rows, [cell["of_base"] for cell in own], marker="o", label=name)
    left.set(xlabel="rows in the batch", ylabel="step time over its byte floor")
    left.axhline(MOST_OVER_FLOOR, color="grey", linewidth=0.8)
    right.set(xlabel="rows in the batch", ylabel="speed over the base's")
    left.legend()
    right.legend()
    figure.savefig(file, dpi=110)
    plt.close(figure)
    return file
