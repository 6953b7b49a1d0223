"""Many methods on one dataset: the jobs that this makes, and the table that their figures make.

Refuses to know terminals, pictures and how a job runs; serving is measured by who can serve.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rootstock_registry import Comparison, Job, Registry
from rootstock_registry.errors import Conflict, NotFound
from rootstock_wire.comparisons import (
    BASE,
    FEW_SHOT,
    ComparisonResult,
    Entry,
    Spread,
    Variant,
    adapter_name,
    hyperparameters,
)
from rootstock_wire.methods import canonical

from rootstock_trainer.compare_advice import advise
from rootstock_trainer.spec import TrainSpec

# The first of these that the jobs report is what the table is sorted by.
QUALITIES = ("accuracy", "token_accuracy", "chrf")
ENDED = ("succeeded", "failed", "cancelled")


class Run(NamedTuple):
    """One job of a comparison: a variant with one seed."""

    label: str
    seed: int
    job: str


class Planned(NamedTuple):
    label: str
    seed: int
    spec: TrainSpec


def plan(
    variants: Sequence[Variant],
    common: Mapping[str, Any],
    name: str,
    seeds: Sequence[int],
    budget_s: float | None = None,
) -> list[Planned]:
    """One job for each variant and seed, seed by seed; `common` are TrainSpec's other fields.

    Every job of one seed has the same split, hence the same rows. Raises BadSpec.
    """
    return [
        Planned(
            variant.label,
            seed,
            TrainSpec.parse(
                {
                    **common,
                    "bars": True,
                    "method": canonical(variant.method),
                    "name": adapter_name(name, variant.label),
                    "seed": seed,
                    "hyperparameters": hyperparameters(variant, budget_s),
                }
            ),
        )
        for seed in seeds
        for variant in variants
    ]


def settle(registry: Registry) -> None:
    """End every comparison whose jobs have all ended, with its table. What the command runs in the
    foreground it ends itself, once it knows what serving costs."""
    for comparison in registry.running_comparisons():
        if comparison.spec.get("foreground"):
            continue
        table = gather(registry, comparison.spec)
        if table is not None:
            keep(registry, comparison, table)


def keep(registry: Registry, comparison: Comparison, table: ComparisonResult) -> Comparison:
    """The comparison as it ended: by this, or by whoever was quicker."""
    measured = any(entry.state == "measured" and entry.jobs for entry in table.entries)
    result = table.model_dump(mode="json")
    try:
        return registry.finish_comparison(comparison, result, failed=not measured)
    except Conflict:
        return registry.comparison(comparison.tenant, comparison.id)


def gather(registry: Registry, spec: Mapping[str, Any]) -> ComparisonResult | None:
    """The table and the advice, from the jobs' rows and their versions' figures."""
    runs = [Run(**run) for run in spec["runs"]]
    jobs = {run.job: registry.job(run.job) for run in runs}
    if any(job.state not in ENDED for job in jobs.values()):
        return None
    figures = {run.job: _figures(registry, jobs[run.job]) for run in runs}
    known = [figures[run.job] for run in runs if figures[run.job]]
    metric = spec.get("metric") or _metric(known)
    entries = [*_bars(known, metric)]
    for label in dict.fromkeys(run.label for run in runs):
        mine = [run for run in runs if run.label == label]
        entries.append(_entry(registry, label, [jobs[r.job] for r in mine], figures, metric))
    rows = known[0] if known else {}
    table = ComparisonResult(
        metric=metric,
        budget=spec["budget"],
        seeds=spec["seeds"],
        train_rows=int(rows.get("train_rows", 0)),
        held_out_rows=int(rows.get("held_out_rows", 0)),
        entries=entries,
        recommendation=advise(entries, metric, _judged(rows, metric), _majority(known)),
    )
    return table


def _figures(registry: Registry, job: Job) -> dict[str, float]:
    if job.version_digest is None:
        return {}
    return dict(registry.manifest(job.version_digest).evaluation)


def _metric(known: Sequence[Mapping[str, float]]) -> str:
    for name in QUALITIES:
        if any(name in figures for figures in known):
            return name
    return QUALITIES[0]


def _bars(known: Sequence[Mapping[str, float]], metric: str) -> Iterator[Entry]:
    """The base as it is, and what examples do without training, as the jobs measured them."""
    for label, prefix in ((BASE, "base"), (FEW_SHOT, "few_shot")):
        values = [each[f"{prefix}_{metric}"] for each in known if f"{prefix}_{metric}" in each]
        if values:
            yield Entry(
                label=label,
                state="measured",
                quality=spread(values),
                forgetting=spread([0.0]),
                trained_parameters=0,
                base_share=0.0,
                artifact_bytes=0,
            )


def _entry(
    registry: Registry,
    label: str,
    jobs: Sequence[Job],
    figures: Mapping[str, Mapping[str, float]],
    metric: str,
) -> Entry:
    done = [figures[job.id] for job in jobs if figures[job.id]]
    failures = [job.error or job.state for job in jobs if not figures[job.id]]
    common = {"label": label, "jobs": [job.id for job in jobs]}
    qualities = [each[metric] for each in done if metric in each]
    if not qualities:
        missing = f"it reports no {metric}" if done else "; ".join(dict.fromkeys(failures))
        return Entry(state="failed", error=missing, **common)
    means = _means(done)
    trained, size = means.get("trained_parameters"), means.get("artifact_bytes")
    return Entry(
        state="measured",
        error="; ".join(dict.fromkeys(failures)) or None,
        quality=spread(qualities),
        forgetting=_spread_of(done, "forgetting"),
        train_seconds=_spread_of(done, "train_seconds"),
        trained_parameters=None if trained is None else round(trained),
        base_share=means.get("base_share"),
        artifact_bytes=None if size is None else round(size),
        figures=means,
        versions=[_ref(registry, job) for job in jobs if job.version_digest],
        **common,
    )


def _ref(registry: Registry, job: Job) -> str:
    """The version's name for its tenant: its digest may have others elsewhere."""
    try:
        name = str(job.spec.get("name", ""))
        mine = registry.versions(job.tenant, name)
        return next(each.ref for each in mine if each.digest == job.version_digest)
    except (NotFound, StopIteration):
        return str(job.version_digest)


def _means(done: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for each in done for name in each)
    values = {name: [each[name] for each in done if name in each] for name in names}
    return {name: sum(each) / len(each) for name, each in values.items()}


def spread(values: Sequence[float]) -> Spread:
    return Spread(mean=sum(values) / len(values), low=min(values), high=max(values))


def _spread_of(done: Sequence[Mapping[str, float]], name: str) -> Spread | None:
    values = [each[name] for each in done if name in each]
    return spread(values) if values else None


def _judged(rows: Mapping[str, float], metric: str) -> int:
    """How many held-out rows the metric was measured on: answering is bounded."""
    answered = rows.get("answered_rows") if metric in ("chrf", "bleu", "exact_match") else None
    return int(answered or rows.get("held_out_rows", 0))


def _majority(known: Sequence[Mapping[str, float]]) -> float | None:
    values = [each["majority_accuracy"] for each in known if "majority_accuracy" in each]
    return sum(values) / len(values) if values else None
