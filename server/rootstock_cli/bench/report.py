"""From one load to its figures: a table, the JSON behind it, and a plot where matplotlib is there.

Refuses to know how the load was made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rootstock_cli.bench.load import Load

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TAIL = 0.95


def quantile(values: Sequence[float], share: float) -> float:
    """The least of `values` that at least `share` of them do not exceed (nearest rank)."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)]


def figures(load: Load) -> dict[str, Any]:
    """What a load came to. Times in seconds; of whole answers only, errors by their words."""
    return {
        "requests": len(load.answers),
        "errors": len(load.answers) - len(load.whole),
        "error_kinds": dict(load.errors.most_common()),
        "models": len({answer.model for answer in load.answers}),
        "seconds": load.seconds,
        "tokens": load.tokens,
        "tokens_per_s": load.tokens_per_s,
        **_times("first_token", load.first_token_s),
        **_times("between_tokens", load.between_tokens_s),
    }


def _times(name: str, values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"{name}_s": quantile(values, 0.5), f"{name}_p95_s": quantile(values, TAIL)}


def rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The lines of the table: what, and its value with the unit."""
    lines = [
        ("requests", str(found["requests"])),
        ("errors", str(found["errors"])),
        ("models asked", str(found["models"])),
        ("tokens", f"{found['tokens']} in {found['seconds']:.2f} s"),
        ("tokens per second", f"{found['tokens_per_s']:.1f}"),
    ]
    for name in ("first token", "between tokens"):
        key = name.replace(" ", "_")
        if f"{key}_s" in found:
            middle, tail = 1e3 * found[f"{key}_s"], 1e3 * found[f"{key}_p95_s"]
            lines.append((f"{name}, median (p95)", f"{middle:.1f} ms ({tail:.1f} ms)"))
    lines += [(f"error, {count} times", words) for words, count in found["error_kinds"].items()]
    return lines


def markdown(title: str, origin: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    table = ["| figure | value |", "| --- | --- |"]
    table += [f"| {what} | {value.replace('|', '/')} |" for what, value in rows(found)]
    machine = origin["machine"]
    made = f"Made by `{origin['command']}` on {machine['cpu']}, {machine['cores']} cores."
    return "\n\n".join([f"# {title}", "\n".join(table), made]) + "\n"


def plot(title: str, load: Load) -> Figure:
    """The share of requests, and of gaps between tokens, that took no longer than x."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = {"first token": load.first_token_s, "between tokens": load.between_tokens_s}
    for axis, (name, values) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        axis.step([1e3 * v for v in sorted(values)], _shares(len(values)), where="post")
        axis.set_title(name)
        axis.set_xlabel("ms")
        axis.set_ylim(0, 1)
    figure.suptitle(title, fontsize="small")
    return figure


def _shares(count: int) -> list[float]:
    return [(number + 1) / count for number in range(count)]


def write(folder: Path, title: str, origin: Mapping[str, Any], load: Load) -> list[Path]:
    """Write `load.json`, `load.md` and, where matplotlib is installed, `load.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    found = figures(load)
    data, text, image = (folder / f"load.{end}" for end in ("json", "md", "png"))
    data.write_text(json.dumps({**origin, "title": title, **found}, indent=2) + "\n")
    text.write_text(markdown(title, origin, found))
    try:
        drawn = plot(title, load)
    except ModuleNotFoundError:
        return [data, text]
    drawn.savefig(image, dpi=120, metadata={"Software": None})
    return [data, text, image]
