"""Which line of a comparison to take, in plain words, with the reasons.

The rule is the one-standard-error rule (Breiman et al. 1984): of all that are as good as the best
within the uncertainty of the measurement, the cheapest. Refuses to know jobs and methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rootstock_wire.comparisons import BASE, FEW_SHOT, Entry, Recommendation, Spread

SHARES = ("accuracy", "token_accuracy", "macro_f1", "exact_match", "token_f1")
# chrF and BLEU go to 100; below one point nobody reads a difference (Mathur et al., ACL 2020,
# found that small differences of corpus scores do not predict what people prefer).
POINT = 1.0
# Nats per token; what is under it is not worth a sentence.
FORGETS = 0.01
BARS = {BASE: "the base as it is", FEW_SHOT: "examples in place of training"}


def advise(
    entries: Sequence[Entry], metric: str, rows: int, majority: float | None = None
) -> Recommendation:
    """`rows` held-out rows were judged; `majority` is the accuracy of the commonest label."""
    measured = [entry for entry in entries if entry.quality is not None]
    if not measured:
        return Recommendation(
            choice=None,
            text="Nothing can be advised: no variant was measured.",
            reasons=[f"{entry.label}: {entry.error}" for entry in entries if entry.error],
        )
    best = max(measured, key=_mean)
    error = standard_error(best.quality or _NOTHING, metric, rows)
    as_good = [entry for entry in measured if _mean(entry) >= _mean(best) - error]
    choice = min(as_good, key=_cost)
    reasons = [*_why(choice, best, error, metric, rows)]
    reasons += _against_bars(choice, measured, metric)
    reasons += _cost_words(choice, best)
    reasons += _forgetting_words(choice, measured)
    if metric == "accuracy" and majority is not None and _mean(choice) <= majority + error:
        reasons.append(
            f"always answering the commonest label has an accuracy of {majority:.3f}: nothing here "
            "is clearly better; look at the labels, or give more rows"
        )
    reasons += [
        f"{entry.label} failed: {entry.error}" for entry in entries if entry.quality is None
    ]
    return Recommendation(choice=choice.label, text=_sentence(choice), reasons=reasons)


def standard_error(quality: Spread, metric: str, rows: int) -> float:
    """One standard error of a quality: of a share by its held-out rows (binomial), of other scores
    POINT; never less than half of what the seeds make of it."""
    seeds = (quality.high - quality.low) / 2
    if metric not in SHARES:
        return max(POINT, seeds)
    # A share of all or none has no measured error; half a row stands in for it.
    share = min(max(quality.mean, 0.5 / max(rows, 1)), 1 - 0.5 / max(rows, 1))
    return max(math.sqrt(share * (1 - share) / max(rows, 1)), seeds)


def shown(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric in SHARES else f"{value:.1f}"


_NOTHING = Spread(mean=0.0, low=0.0, high=0.0)


def _mean(entry: Entry) -> float:
    return (entry.quality or _NOTHING).mean


def _cost(entry: Entry) -> tuple[float, float, float]:
    """What is cheap to make and keep: the base, then prompts, then by size; better first."""
    rank = 0 if entry.label == BASE else 1 if not entry.trained_parameters else 2
    return rank, float(entry.artifact_bytes or 0), -_mean(entry)


def _sentence(choice: Entry) -> str:
    if choice.label == BASE:
        return "Train nothing: the base as it is does as well as anything trained here."
    if not choice.trained_parameters:
        return f"Train nothing: {choice.label}, examples in the prompt, does as well as training."
    return f"Take {choice.label}."


def _why(choice: Entry, best: Entry, error: float, metric: str, rows: int) -> list[str]:
    quality = choice.quality or _NOTHING
    said = f"its {metric} is {shown(metric, quality.mean)}"
    if quality.high > quality.low:
        low, high = shown(metric, quality.low), shown(metric, quality.high)
        said += f" ({low} to {high} over the seeds)"
    said += f", on {rows} held-out rows"
    if choice is best:
        return [f"{said}: the best of all"]
    return [
        f"{said}; {best.label} has {shown(metric, _mean(best))}, a difference within the "
        f"measurement's uncertainty of {shown(metric, error)}"
    ]


def _against_bars(choice: Entry, measured: Sequence[Entry], metric: str) -> list[str]:
    bars = [entry for entry in measured if entry.label in BARS and entry is not choice]
    return [
        f"{BARS[bar.label]} has {shown(metric, _mean(bar))}: the gain is "
        f"{shown(metric, _mean(choice) - _mean(bar))}"
        for bar in bars
    ]


def _cost_words(choice: Entry, best: Entry) -> list[str]:
    if not choice.trained_parameters:
        return []
    words = f"it trains {choice.trained_parameters:,} numbers"
    if choice.base_share is not None:
        words += f", {choice.base_share:.2%} of the base"
    if choice.artifact_bytes:
        words += f", and takes {size(choice.artifact_bytes)}"
        if choice is not best and best.artifact_bytes:
            words += f" against {size(best.artifact_bytes)} for {best.label}"
    return [words]


def _forgetting_words(choice: Entry, measured: Sequence[Entry]) -> list[str]:
    lost = choice.forgetting
    if lost is None:
        return []
    others = [e for e in measured if e.forgetting and e.forgetting.mean > max(lost.mean, FORGETS)]
    worst = max(others, key=lambda e: (e.forgetting or _NOTHING).mean, default=None)
    words = (
        "it forgets nothing of what the base knew"
        if lost.mean <= FORGETS
        else f"it forgets {lost.mean:.3f} of what the base knew, on general text"
    )
    if worst is not None and worst.forgetting is not None:
        words += f"; {worst.label} forgets {worst.forgetting.mean:.3f}"
    return [words]


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
