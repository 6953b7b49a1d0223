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

from benchmarks import ceilings
from benchmarks.measure import Measured
from benchmarks.scenario import Judged, Scenario, Target
from benchmarks.workload import METRICS, RANKS, ZIPF, Shape

COLOURS = ("#1b7837", "#9970ab", "#c2a5cf", "#5aae61", "#762a83")
HEADS = ("what", "figure", "ours", "against", "theirs", "ratio", "target", "ceiling", "drift")


@dataclass(frozen=True)
class Spread:
    """A median with the least and the most of what it is the median of."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median(values), min(values), max(values))

    def text(self, digits: int, scale: float = 1.0) -> str:
        middle, least, most = (
            f"{value * scale:.{digits}f}" for value in (self.median, self.least, self.most)
        )
        return f"{middle} ({least}-{most})"


@dataclass(frozen=True)
class Comparison:
    """One metric of the judged arm against one other arm, or against a known figure."""

    against: str
    ratio: Spread
    target: Target | None  # None: beside the target, for information
    theirs: Spread
    measured: bool  # False: known from another day


def comparisons(measured: Measured, judged: Judged, shape: Shape) -> list[Comparison]:
    """Against every arm that ran, then against what is known of others on this shape."""
    ours, *others = measured.runs
    found = []
    for other in others:
        about = judged.against is None or other in judged.against
        target = judged.target if about and judged.target.asks else None
        ratio = Spread.of(paired(measured, judged, other, shape))
        theirs = Spread.of(values(measured, other, judged.metric))
        found.append(Comparison(other, ratio, target, theirs, True))
    for name, figure in judged.known.get(shape.name, {}).items():
        ratio = Spread.of([value / figure for value in values(measured, ours, judged.metric)])
        against = Spread.of([figure])
        found.append(Comparison(f"{name} (known)", ratio, judged.target, against, False))
    return found


def paired(measured: Measured, judged: Judged, other: str, shape: Shape) -> list[float]:
    """The judged arm's figure over (or less) the other's, round by round.

    Neighbours in time are compared, so that cores that come and go cancel out. With a ceiling of
    the ratio, the share of it.
    """
    ours = next(iter(measured.runs))
    mine, theirs = (values(measured, name, judged.metric) for name in (ours, other))
    pairs = list(zip(mine, theirs, strict=True))
    if judged.how == "minus":
        return [one - another for one, another in pairs]
    ceiling = judged.ratio_ceiling(shape) if judged.ratio_ceiling else 1.0
    return [one / another / ceiling for one, another in pairs]


def values(measured: Measured, arm: str, metric: str) -> list[float]:
    return [run.figures[metric] for run in measured.runs[arm]]


def drift(measured: Measured) -> float:
    """The slowest calibration of the cell over its fastest, of both kinds; 1: steady cores."""
    pairs = [each for pair in measured.calibrations for each in pair]
    kinds = (
        [each.bytes_per_s for each in pairs],
        [each.operations_per_s for each in pairs],
    )
    return max(max(speeds) / min(speeds) for speeds in kinds)


def ceiling(measured: Measured, shape: Shape) -> float | None:
    """Tokens per second of the judged arm's load that bytes and operations allow here."""
    if measured.cell.load is None:
        return None
    mode, rows = measured.cell.load
    calibrations = [each for pair in measured.calibrations for each in pair]
    return ceilings.tokens_per_s(shape, mode, rows, ceilings.typical(calibrations))


def table(shape: Shape, cells: Sequence[Measured]) -> list[tuple[str, ...]]:
    """The rows under HEADS, as text: one for each comparison."""
    rows = []
    for measured in cells:
        if not measured.runs:
            reason = next(iter(measured.skipped.values())).splitlines()[0]
            rows.append((measured.cell.label, f"skipped: {reason}", *[""] * (len(HEADS) - 2)))
            continue
        for judged in measured.cell.judged:
            rows += [
                _row(measured, judged, each, shape) for each in comparisons(measured, judged, shape)
            ] or [_row(measured, judged, None, shape)]
    return rows


def _row(
    measured: Measured, judged: Judged, against: Comparison | None, shape: Shape
) -> tuple[str, ...]:
    metric = METRICS[judged.metric]
    ours = Spread.of(values(measured, next(iter(measured.runs)), judged.metric))
    head = (measured.cell.label, metric.title, ours.text(metric.digits, metric.scale))
    tail = (_ceiling_text(measured, judged, ours, shape), f"{drift(measured):.2f}")
    if against is None:
        return (*head, "", "", "", target_text(judged), *tail)
    if against.measured:
        theirs = against.theirs.text(metric.digits, metric.scale)
    else:
        theirs = f"{against.theirs.median * metric.scale:.{metric.digits}f}"
    if judged.how == "minus":
        ratio = against.ratio.text(metric.digits, metric.scale) + " more"
    else:
        ratio = against.ratio.text(2)
    wanted = ""
    if against.target is not None:
        met = "met" if against.target.met_by(against.ratio.median) else "missed"
        wanted = f"{target_text(judged)}: {met}"
    return (*head, against.against, theirs, ratio, wanted, *tail)


def target_text(judged: Judged) -> str:
    metric, target = METRICS[judged.metric], judged.target
    scale = metric.scale if judged.how == "minus" else 1.0
    words = [
        f"{word} {value * scale:g}"
        for word, value in (("≥", target.at_least), ("≤", target.at_most), ("aim", target.aim))
        if value is not None
    ]
    return ", ".join(words) + (" of R(N)" if judged.ratio_ceiling else "")


def _ceiling_text(measured: Measured, judged: Judged, ours: Spread, shape: Shape) -> str:
    if judged.ratio_ceiling:
        return f"R(N) {judged.ratio_ceiling(shape):.2f}"
    found = ceiling(measured, shape)
    if found is None or judged.metric != "tokens_per_s":
        return ""
    return f"{found:.0f} ({ours.median / found:.0%})"


def figures(
    scenario: Scenario, shape: Shape, origin: Mapping[str, Any], cells: Sequence[Measured]
) -> dict[str, Any]:
    """Everything that was measured, and everything derived from it. Times in seconds."""
    return {
        **origin,
        "scenario": scenario.name,
        "says": scenario.says,
        "shape": asdict(shape),
        "cells": [_figures_of(measured, shape) for measured in cells],
    }


def _figures_of(measured: Measured, shape: Shape) -> dict[str, Any]:
    facts: dict[str, Any] = {"cell": measured.cell.label, "skipped": measured.skipped}
    if not measured.runs:
        return facts
    return {
        **facts,
        "calibrations": [[asdict(each) for each in pair] for pair in measured.calibrations],
        "drift": drift(measured),
        "ceiling_tokens_per_s": ceiling(measured, shape),
        "judged": [_judged(measured, judged, shape) for judged in measured.cell.judged],
        "runs": {name: [dict(run.figures) for run in runs] for name, runs in measured.runs.items()},
    }


def _judged(measured: Measured, judged: Judged, shape: Shape) -> dict[str, Any]:
    ours = next(iter(measured.runs))
    return {
        "metric": judged.metric,
        "ours": median(values(measured, ours, judged.metric)),
        "how": judged.how,
        "target": asdict(judged.target),
        "ratio_ceiling": judged.ratio_ceiling(shape) if judged.ratio_ceiling else None,
        "against": {
            each.against: {
                **asdict(each.ratio),
                "measured": each.measured,
                "met": None if each.target is None else each.target.met_by(each.ratio.median),
            }
            for each in comparisons(measured, judged, shape)
        },
    }


def markdown(
    scenario: Scenario, shape: Shape, origin: Mapping[str, Any], cells: Sequence[Measured]
) -> str:
    lines = [HEADS, ["---"] * len(HEADS), *table(shape, cells)]
    skipped = {
        f"{name} was not run: {reason.splitlines()[0]}"
        for measured in cells
        for name, reason in measured.skipped.items()
    }
    machine = origin["machine"]
    facts = [
        *sorted(skipped),
        f"Made by `{origin['command']}` on {machine['cpu']}, {machine['cores']} cores.",
        "Versions: " + ", ".join(f"{k} {v}" for k, v in origin["versions"].items()) + ".",
        f"Shape {shape.name}: Llama, hidden {shape.hidden}, {shape.layers} layers, {shape.heads} "
        f"heads, {shape.kv_heads} key-value heads, FFN {shape.ffn}, vocabulary {shape.vocab}, "
        f"untied, {shape.dtype}, random weights; adapters of rank "
        f"{' and '.join(map(str, RANKS))} in turn on all seven linears; {shape.prompt_tokens} "
        f"random tokens in, {shape.new_tokens} greedy tokens out, counted; a power law has "
        f"exponent {ZIPF:g}.",
        "Arms take turns; a warm round does not count. Figures and ratios are medians "
        "(least-most); a ratio is that of two runs of one round, ours first. Known figures are "
        "the best found on two cores of another day, not measured here. The ceiling is what bytes "
        "and operations allow at the speeds measured before and after each round, and our share of "
        "it; drift is the fastest of those over the slowest.",
    ]
    text = "\n".join("| " + " | ".join(row) + " |" for row in lines)
    return "\n\n".join([f"# {scenario.says}", text, *facts]) + "\n"


def plot(
    scenario: Scenario, shape: Shape, origin: Mapping[str, Any], cells: Sequence[Measured]
) -> Figure:
    """A panel for each metric: bars by cell and arm, whiskers from least to most."""
    ran = [measured for measured in cells if measured.runs]
    metrics = list(dict.fromkeys(j.metric for measured in ran for j in measured.cell.judged))
    figure = Figure(figsize=(5.5 * max(1, len(metrics)), 4.2), layout="constrained")
    names = list(dict.fromkeys(name for measured in ran for name in measured.runs))
    axes = figure.subplots(1, max(1, len(metrics)), squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=False):
        kind, width = METRICS[metric], 0.8 / len(names)
        for number, name in enumerate(names):
            members = [(at, m) for at, m in enumerate(ran) if name in m.runs]
            spreads = [Spread.of(values(m, name, metric)) for _, m in members]
            heights = [kind.scale * spread.median for spread in spreads]
            below = [kind.scale * (spread.median - spread.least) for spread in spreads]
            above = [kind.scale * (spread.most - spread.median) for spread in spreads]
            places = [at + (number - (len(names) - 1) / 2) * width for at, _ in members]
            axis.bar(
                places, heights, width, label=name, color=COLOURS[number % len(COLOURS)],
                yerr=[below, above], capsize=2,
            )  # fmt: skip
        axis.set_xticks(range(len(ran)), [measured.cell.label for measured in ran])
        axis.set_ylabel(kind.title)
        axis.legend(fontsize="small")
    machine = origin["machine"]
    figure.suptitle(
        f"{scenario.says} · shape {shape.name} · {machine['cpu']}, {machine['cores']} cores",
        fontsize="small",
    )
    return figure


def write(
    folder: Path,
    scenario: Scenario,
    shape: Shape,
    origin: Mapping[str, Any],
    cells: Sequence[Measured],
) -> list[Path]:
    """Write the JSON, the table and the plot; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{scenario.name}_{shape.name}"
    data, text, image = (folder / f"{name}.{end}" for end in ("json", "md", "png"))
    facts = figures(scenario, shape, origin, cells)
    data.write_text(json.dumps(facts, indent=2) + "\n")
    text.write_text(markdown(scenario, shape, origin, cells))
    # Without matplotlib's version and date, equal figures make equal files.
    drawn = plot(scenario, shape, origin, cells)
    drawn.savefig(image, dpi=120, metadata={"Software": None})
    return [data, text, image]
