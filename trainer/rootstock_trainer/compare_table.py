"""A comparison as cells of text: the same table for a terminal and for a page.

Refuses to know what draws it.
"""

from __future__ import annotations

from collections.abc import Iterator

from rootstock_wire.comparisons import ComparisonResult, Entry, Spread

from rootstock_trainer.compare_advice import shown, size

NOT_MEASURED = "-"


def header(result: ComparisonResult) -> list[str]:
    return [
        "variant", result.metric, "forgetting", "trained", "share of base", "size",
        "training s", "added ms", "tokens/s",
    ]  # fmt: skip


def rows(result: ComparisonResult) -> Iterator[list[str]]:
    """One row for each entry, best first; what failed comes last and says why in `markdown`."""
    order = sorted(result.entries, key=lambda e: -e.quality.mean if e.quality else float("inf"))
    for entry in order:
        yield [entry.label, *_cells(entry, result.metric)]


def markdown(result: ComparisonResult, title: str) -> str:
    """The table, what was equal, and the advice with its reasons."""
    lines = [f"# {title}", "", result.budget, ""]
    lines += ["| " + " | ".join(header(result)) + " |", "| --- " * len(header(result)) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(result)]
    lines += ["", f"**{result.recommendation.text}**", ""]
    lines += [f"- {reason}" for reason in result.recommendation.reasons]
    return "\n".join(lines) + "\n"


def _cells(entry: Entry, metric: str) -> list[str]:
    if entry.quality is None:
        return ["failed", *[NOT_MEASURED] * 7]
    trained = entry.trained_parameters
    share = entry.base_share
    return [
        _spread(entry.quality, metric),
        NOT_MEASURED if entry.forgetting is None else _spread(entry.forgetting, "accuracy"),
        NOT_MEASURED if trained is None else f"{trained:,}",
        NOT_MEASURED if share is None else f"{share:.3%}",
        NOT_MEASURED if entry.artifact_bytes is None else size(entry.artifact_bytes),
        NOT_MEASURED if entry.train_seconds is None else f"{entry.train_seconds.mean:.1f}",
        _number(entry.added_latency_ms, "+.1f"),
        _number(entry.tokens_per_s, ".0f"),
    ]


def _spread(value: Spread, metric: str) -> str:
    if value.low == value.high:
        return shown(metric, value.mean)
    return (
        f"{shown(metric, value.mean)} ({shown(metric, value.low)} to {shown(metric, value.high)})"
    )


def _number(value: float | None, form: str) -> str:
    return NOT_MEASURED if value is None else format(value, form)
