"""From timed runs to figures: paired ratios, one table, one plot, and the JSON behind both.

Refuses to know how the runs were made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.measure import Cell, Timed
from benchmarks.workload import MODES, Settings

OURS = "rootstock"
COLOURS = {"rootstock": "#1b7837", "transformers": "#9970ab", "peft": "#c2a5cf"}


@dataclass(frozen=True)
class Spread:
    """A median with the least and the most of what it is the median of."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def text(self, digits: int) -> str:
        return f"{self.median:.{digits}f} ({self.least:.{digits}f}-{self.most:.{digits}f})"


def paired_ratios(cell: Cell, peer: str) -> list[float]:
    """Ours over the peer's tokens per second, round by round.

    Neighbours in time are divided, so that cores that come and go cancel out.
    """
    pairs = zip(cell.timed[OURS], cell.timed[peer], strict=True)
    return [ours.run.tokens_per_s / theirs.run.tokens_per_s for ours, theirs in pairs]


def speeds(cell: Cell, system: str) -> list[float]:
    return [timed.run.tokens_per_s for timed in cell.timed[system]]


def drift(cell: Cell) -> float:
    """The slowest calibration of the cell over its fastest; 1 means steady cores."""
    times = [s for runs in cell.timed.values() for timed in runs for s in timed.calibration_s]
    return max(times) / min(times)


def figures(settings: Settings, origin: Mapping[str, Any], cells: Sequence[Cell]) -> dict[str, Any]:
    """Everything that was measured, and everything derived from it. Times in seconds."""
    return {
        **origin,
        "settings": asdict(settings),
        "cells": [_figures_of(cell) for cell in cells],
    }


def _figures_of(cell: Cell) -> dict[str, Any]:
    ratios = {peer: paired_ratios(cell, peer) for peer in cell.timed if peer != OURS}
    return {
        "mode": cell.mode,
        "concurrency": cell.concurrency,
        "calibration_drift": drift(cell),
        "ratios": {
            peer: {**asdict(Spread.of(each)), "rounds": each} for peer, each in ratios.items()
        },
        "systems": {
            name: {
                "tokens_per_s": asdict(Spread.of(speeds(cell, name))),
                "runs": [_run(timed) for timed in runs],
            }
            for name, runs in cell.timed.items()
        },
    }


def _run(timed: Timed) -> dict[str, Any]:
    run = timed.run
    streamed = {}
    if run.first_token_s:
        streamed = {
            "median_first_token_s": median(run.first_token_s),
            "median_between_tokens_s": median(run.between_tokens_s),
        }
    return {
        "seconds": run.seconds,
        "tokens": run.tokens,
        "tokens_per_s": run.tokens_per_s,
        "calibration_s": timed.calibration_s,
        **streamed,
    }


def table(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the one table, as text."""
    peers = sorted({name for cell in cells for name in cell.timed} - {OURS}, reverse=True)
    heads = ["adapters", "at once", f"{OURS} tok/s", *(f"{peer} tok/s" for peer in peers)]
    heads += [f"over {peer}" for peer in peers]
    heads += ["first token ms", "between tokens ms", "drift"]
    return heads, [_row(cell, peers) for cell in cells]


def _row(cell: Cell, peers: Sequence[str]) -> list[str]:
    runs = [timed.run for timed in cell.timed[OURS]]
    ours_ms = [
        1e3 * median(median(times) for times in kind)
        for kind in ([r.first_token_s for r in runs], [r.between_tokens_s for r in runs])
    ]
    return [
        MODES[cell.mode],
        str(cell.concurrency),
        *(
            Spread.of(speeds(cell, name)).text(0) if name in cell.timed else ""
            for name in (OURS, *peers)
        ),
        *(
            Spread.of(paired_ratios(cell, peer)).text(2) if peer in cell.timed else ""
            for peer in peers
        ),
        *(f"{ms:.1f}" for ms in ours_ms),
        f"{drift(cell):.2f}",
    ]


def markdown(settings: Settings, origin: Mapping[str, Any], cells: Sequence[Cell]) -> str:
    heads, rows = table(cells)
    lines = ["| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows)]
    shape = settings.shape
    facts = [
        f"Made by `{origin['command']}` on {origin['machine']['cpu']}, "
        f"{origin['machine']['cores']} cores.",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in origin["versions"].items()) + ".",
        f"Llama, hidden {shape.hidden}, {shape.layers} layers, {shape.heads} heads, "
        f"{shape.kv_heads} key-value heads, FFN {shape.ffn}, vocabulary {shape.vocab}, untied, "
        f"{shape.dtype}, random weights; {settings.adapters} adapters of rank "
        f"{' and '.join(map(str, settings.ranks))} in turn on all seven linears.",
        f"{settings.prompt_tokens} random tokens in, {settings.new_tokens} greedy tokens out, "
        f"counted. {OURS}: its server, over HTTP with streaming, closed loop. The others: in one "
        f"process, static batches of the same requests. {settings.threads} threads each.",
        f"Systems take turns; rounds: {settings.rounds} and a warm one. Speeds and ratios are "
        "medians (least-most); a ratio is that of two runs of one round. Drift is the slowest "
        "over the fastest of a fixed product timed before and after every run.",
    ]
    return "\n\n".join(["# Serving many adapters", "\n".join(lines), *facts]) + "\n"


def plot(settings: Settings, origin: Mapping[str, Any], cells: Sequence[Cell]) -> Figure:
    """Tokens per second by concurrency, a panel per mode, whiskers from least to most."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, len(settings.modes), sharey=True, squeeze=False)[0]
    for axis, mode in zip(axes, settings.modes, strict=True):
        members = [cell for cell in cells if cell.mode == mode]
        names = list(members[0].timed)
        width = 0.8 / len(names)
        for number, name in enumerate(names):
            spreads = [Spread.of(speeds(cell, name)) for cell in members]
            heights = [spread.median for spread in spreads]
            below = [spread.median - spread.least for spread in spreads]
            above = [spread.most - spread.median for spread in spreads]
            places = [at + (number - (len(names) - 1) / 2) * width for at in range(len(members))]
            axis.bar(
                places, heights, width, label=name, color=COLOURS[name],
                yerr=[below, above], capsize=2,
            )  # fmt: skip
        axis.set_xticks(range(len(members)), [str(cell.concurrency) for cell in members])
        axis.set_title(MODES[mode])
        axis.set_xlabel("requests at once")
        axis.legend()
    axes[0].set_ylabel("tokens per second")
    machine = origin["machine"]
    figure.suptitle(
        f"{origin['command']} · {machine['cpu']}, {machine['cores']} cores", fontsize="small"
    )
    return figure


def write(
    folder: Path, settings: Settings, origin: Mapping[str, Any], cells: Sequence[Cell]
) -> list[Path]:
    """Write the JSON, the table and the plot; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, text, image = (folder / f"{settings.name}.{end}" for end in ("json", "md", "png"))
    data.write_text(json.dumps(figures(settings, origin, cells), indent=2) + "\n")
    text.write_text(markdown(settings, origin, cells))
    # Without matplotlib's version and date, equal figures make equal files.
    plot(settings, origin, cells).savefig(image, dpi=120, metadata={"Software": None})
    return [data, text, image]
