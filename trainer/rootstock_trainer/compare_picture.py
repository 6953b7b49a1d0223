"""A comparison as one picture: quality against size, forgetting as colour, the bars as lines.

Refuses to know where the figures come from; needs no display.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rootstock_wire.comparisons import ComparisonResult, Entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INCHES = (9.0, 5.5)
DPI = 130
# The colours' range is at least this wide, so that noise does not look like a difference.
LEAST_FORGETTING = 0.1


def draw(result: ComparisonResult, title: str, file: Path) -> None:
    """Write a PNG; the advised entry has a ring around it."""
    # The object-oriented way: no window system, no state that outlives the call.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    entries = [entry for entry in result.entries if entry.quality is not None]
    _lines(axes, [entry for entry in entries if not entry.trained_parameters])
    _points(axes, [entry for entry in entries if entry.trained_parameters], result)
    axes.set_ylabel(f"{result.metric} on {result.held_out_rows} held-out rows")
    axes.set_xlabel("size of the version, bytes")
    axes.set_title(title)
    axes.grid(alpha=0.25)
    figure.savefig(file, format="png", metadata={"Software": None})


def _lines(axes: Axes, bars: Sequence[Entry]) -> None:
    """What was not trained has no size to speak of: a line across, with its name on it."""
    for entry in bars:
        assert entry.quality is not None
        axes.axhline(entry.quality.mean, color="0.45", linestyle="--", linewidth=1)
        axes.annotate(
            entry.label,
            (0.005, entry.quality.mean),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            color="0.35",
            fontsize=9,
        )


def _points(axes: Axes, entries: Sequence[Entry], result: ComparisonResult) -> None:
    if not entries:
        return
    sizes = [max(entry.artifact_bytes or 1, 1) for entry in entries]
    spreads = [entry.quality for entry in entries if entry.quality is not None]
    means = [each.mean for each in spreads]
    forgetting = [entry.forgetting.mean if entry.forgetting else 0.0 for entry in entries]
    low = [each.mean - each.low for each in spreads]
    high = [each.high - each.mean for each in spreads]
    axes.set_xscale("log")
    axes.errorbar(sizes, means, yerr=[low, high], fmt="none", ecolor="0.6", capsize=3, zorder=1)
    worst = max(LEAST_FORGETTING, *(abs(each) for each in forgetting))
    points = axes.scatter(
        sizes, means, c=forgetting, cmap="coolwarm", vmin=-worst, vmax=worst, s=90,
        edgecolors="0.2", zorder=2,
    )  # fmt: skip
    axes.figure.colorbar(points, ax=axes, label="forgetting (loss on general text, after - before)")
    for entry, x, y in zip(entries, sizes, means, strict=True):
        if entry.label == result.recommendation.choice:
            axes.scatter([x], [y], s=330, facecolors="none", edgecolors="0.1", zorder=3)
        axes.annotate(
            entry.label, (x, y), xytext=(9, 6), textcoords="offset points", fontsize=9, zorder=4
        )
    # Room for the names, also where all are of one size.
    axes.set_xlim(min(sizes) / 2, max(sizes) * 4)
    axes.margins(y=0.15)
