"""Comparisons: their jobs, the table from real versions' figures, the advice, the picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rootstock_registry import Registry
from rootstock_trainer import compare, compare_table
from rootstock_trainer.compare_advice import advise, size, standard_error
from rootstock_trainer.compare_picture import DPI, INCHES, draw
from rootstock_trainer.errors import BadSpec
from rootstock_trainer.worker import work
from rootstock_wire.comparisons import (
    ComparisonResult,
    Entry,
    Spread,
    adapter_name,
    budget_words,
    hyperparameters,
    parse_variants,
    variants_for,
)


def spread(mean: float, low: float | None = None, high: float | None = None) -> Spread:
    return Spread(mean=mean, low=mean if low is None else low, high=mean if high is None else high)


def entry(label: str, quality: float, numbers: int, size: int, forgot: float = 0.0) -> Entry:
    return Entry(
        label=label, state="measured", quality=spread(quality), forgetting=spread(forgot),
        trained_parameters=numbers, base_share=numbers / 1000, artifact_bytes=size,
        train_seconds=spread(2.0), jobs=["job_1"],
    )  # fmt: skip


BASE = entry("base", 0.3, 0, 0)
HEAD = entry("head", 0.9, 10, 400)
FULL = entry("full", 0.91, 1000, 40_000, 0.5)


def test_default_variants_fit_the_task_and_every_comparison_has_its_bars() -> None:
    for task in ("encode", "generate", "text2text"):
        labels = [variant.label for variant in variants_for(task, [])]
        assert len(labels) >= 4 and "full" in labels
    assert [v.label for v in variants_for("encode", ["full"])] == ["head", "full"]
    assert [v.label for v in variants_for("generate", ["full"])] == ["few-shot", "full"]
    assert [v.label for v in variants_for("encode", ["lora,head:c=2"])] == ["lora", "head:c=2"]


def test_names_of_versions_can_be_read_and_never_collide() -> None:
    assert adapter_name("mood", "lora:rank=4") == "mood-lora-rank-4"
    long = [adapter_name("m" * 30, f"lora:target_modules={'q' * 40}{i}") for i in range(2)]
    assert all(len(name) <= 64 for name in long) and long[0] != long[1]


def test_a_budget_in_seconds_is_one_for_what_takes_time_and_yields_to_the_variant() -> None:
    head, lora, own = parse_variants(["head,lora,lora:n_epochs=2"])
    assert hyperparameters(head, 9.0) == {}
    assert hyperparameters(lora, 9.0) == {"max_seconds": 9.0, "n_epochs": 100}
    assert hyperparameters(own, 9.0)["n_epochs"] == 2
    assert hyperparameters(lora, None) == {}
    assert "9 s" in budget_words(9.0) and "n_epochs" in budget_words(None)


@pytest.fixture
def common(encoder_folder: Path, reviews_csv: Path) -> dict[str, Any]:
    return {"base": "tiny-encoder", "base_path": str(encoder_folder), "data": str(reviews_csv)}


def test_a_table_is_gathered_from_the_versions_once_all_jobs_have_ended(
    registry: Registry, home: Path, common: dict[str, Any]
) -> None:
    variants = parse_variants(["head,head:c=0.001"])
    planned = compare.plan(variants, common, "mood", range(2))
    assert [(each.label, each.seed) for each in planned] == [
        ("head", 0), ("head:c=0.001", 0), ("head", 1), ("head:c=0.001", 1),
    ]  # fmt: skip
    jobs = [registry.submit_job("local", p.spec.model_dump(mode="json")) for p in planned]
    runs = [
        {"label": each.label, "seed": each.seed, "job": job.id}
        for each, job in zip(planned, jobs, strict=True)
    ]
    spec = {"model": "tiny-encoder", "methods": ["head", "head:c=0.001"], "seeds": 2,
            "metric": None, "budget": "equal", "runs": runs}  # fmt: skip
    comparison = registry.create_comparison("local", spec)
    for job in jobs[:-1]:
        claimed = registry.claim_job("test", 60.0, job.id)
        assert claimed is not None and work(registry, home, claimed) == 0
    compare.settle(registry)
    assert registry.comparison("local", comparison.id).state == "running"
    registry.cancel_job("local", jobs[-1].id)
    compare.settle(registry)
    ended = registry.comparison("local", comparison.id)
    assert ended.state == "succeeded"
    table = ComparisonResult.model_validate(ended.result)
    by_label = {entry.label: entry for entry in table.entries}
    strong, weak = by_label["head"], by_label["head:c=0.001"]
    assert strong.versions == ["mood-head:1", "mood-head:2"]
    assert strong.quality is not None and weak.quality is not None
    figures = [registry.resolve("local", ref).manifest.evaluation for ref in strong.versions]
    accuracies = [each["accuracy"] for each in figures]
    assert strong.quality == spread(sum(accuracies) / 2, min(accuracies), max(accuracies))
    assert strong.trained_parameters == figures[0]["trained_parameters"]
    assert weak.error == "cancelled" and len(weak.versions) == 1
    assert table.metric == "accuracy" and table.held_out_rows == figures[0]["held_out_rows"]
    assert table.recommendation.choice in by_label


def test_a_variant_that_cannot_be_is_refused_before_anything_runs(common: dict[str, Any]) -> None:
    with pytest.raises(BadSpec, match="base"):
        compare.plan(parse_variants(["head"]), {**common, "base": 7}, "mood", [0])


def test_the_cheapest_of_those_as_good_as_the_best_is_advised() -> None:
    advice = advise([BASE, HEAD, FULL], "accuracy", rows=100)
    assert advice.choice == "head" and advice.text == "Take head."
    reasons = "\n".join(advice.reasons)
    assert "full has 0.910, a difference within the measurement's uncertainty of 0.029" in reasons
    assert "the base as it is has 0.300: the gain is 0.600" in reasons
    assert "10 numbers, 1.00% of the base, and takes 400 bytes against 40.0 kB for full" in reasons
    assert "it forgets nothing of what the base knew; full forgets 0.500" in reasons
    # With enough rows the same difference is one.
    assert advise([BASE, HEAD, FULL], "accuracy", rows=100_000).choice == "full"


def test_where_the_base_is_as_good_nothing_is_trained() -> None:
    good = BASE.model_copy(update={"quality": spread(0.9)})
    assert advise([good, HEAD, FULL], "accuracy", rows=100).text.startswith("Train nothing")
    shots = entry("few-shot", 0.9, 0, 900)
    advice = advise([BASE, shots, HEAD], "accuracy", rows=100)
    assert advice.choice == "few-shot" and advice.text.startswith("Train nothing")


def test_what_does_not_beat_the_commonest_label_and_what_failed_is_said() -> None:
    failed = Entry(label="lora", state="failed", error="NaN at step 3")
    advice = advise([BASE, HEAD, failed], "accuracy", rows=50, majority=0.88)
    assert any("always answering the commonest label" in reason for reason in advice.reasons)
    assert "lora failed: NaN at step 3" in advice.reasons
    nothing = advise([failed], "accuracy", rows=50)
    assert nothing.choice is None and nothing.reasons == ["lora: NaN at step 3"]


def test_uncertainty_is_binomial_for_shares_and_never_below_what_the_seeds_show() -> None:
    assert standard_error(spread(0.5), "accuracy", 100) == pytest.approx(0.05)
    assert standard_error(spread(0.5, 0.3, 0.7), "accuracy", 100) == pytest.approx(0.2)
    assert standard_error(spread(1.0), "accuracy", 50) > 0
    assert standard_error(spread(40.0), "chrf", 50) == 1.0
    assert [size(n) for n in (999, 1500, 2_000_000)] == ["999 bytes", "1.5 kB", "2.0 MB"]


@pytest.fixture
def table() -> ComparisonResult:
    entries = [BASE, HEAD, FULL, Entry(label="lora", state="failed", error="NaN")]
    return ComparisonResult(
        metric="accuracy", budget="Equal budgets.", seeds=1, train_rows=80, held_out_rows=20,
        entries=entries, recommendation=advise(entries, "accuracy", 20),
    )  # fmt: skip


def test_the_table_has_the_best_first_and_gaps_where_nothing_was_measured(
    table: ComparisonResult,
) -> None:
    rows = list(compare_table.rows(table))
    assert [row[0] for row in rows] == ["full", "head", "base", "lora"]
    assert rows[1] == ["head", "0.900", "0.000", "10", "1.000%", "400 bytes", "2.0", "-", "-"]
    assert rows[3][1:] == ["failed", *["-"] * 7]
    page = compare_table.markdown(table, "mood")
    assert "| head | 0.900 |" in page and "**Take head.**" in page
    assert "- lora failed: NaN" in page and "Equal budgets." in page


def test_the_picture_is_a_png_without_a_display(table: ComparisonResult, tmp_path: Path) -> None:
    twins = [HEAD, HEAD.model_copy(update={"label": "head:c=2"})]
    pictures = {"all": table.entries, "bars": [BASE], "none": [], "twins": twins}
    for name, entries in pictures.items():
        draw(table.model_copy(update={"entries": entries}), "mood", tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.format == "PNG"
            assert picture.size == tuple(round(side * DPI) for side in INCHES)
    sizes = [(tmp_path / f"{name}.png").stat().st_size for name in ("all", "bars", "none")]
    assert sizes[0] > sizes[1] > sizes[2]
