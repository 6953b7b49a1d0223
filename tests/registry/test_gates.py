"""A promotion's demands: strictly written, compared with figures, refused with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry, errors
from rootstock_registry.gates import Figure, Gate, check, parse

DATASET = "sha256:" + "d" * 64


@pytest.mark.parametrize(
    ("text", "gate"),
    [
        ("accuracy>=0.9", Gate("accuracy", ">=", 0.9)),
        ("forgetting<=0.02", Gate("forgetting", "<=", 0.02)),
        (" eval_loss < 1e-3 ", Gate("eval_loss", "<", 0.001)),
        ("pass@1>.5", Gate("pass@1", ">", 0.5)),
        ("delta/bleu >= -2", Gate("delta/bleu", ">=", -2.0)),
    ],
)
def test_a_gate_is_a_metric_a_comparison_and_a_number(text: str, gate: Gate) -> None:
    assert parse([text]).figures == (gate,)
    assert not parse([text]).signed


def test_a_signature_is_a_gate_too() -> None:
    demanded = parse(["signature", "accuracy>=0.9"])
    assert demanded.signed
    assert demanded.texts == ["accuracy >= 0.9", "signature"]


@pytest.mark.parametrize(
    "text",
    ["", "accuracy", "accuracy>=", ">=0.9", "accuracy=0.9", "accuracy==0.9", "accuracy>=0,9",
     "accuracy>=nan", "accuracy>=inf", "accuracy>=1e999", "accuracy>=0.9 or 1", "a b>=1",
     "accuracy=>0.9", "accuracy>=0x1", "accuracy>=1_0", "Signature!", "9a>=1",
     "accuracy>=0.9\nx<1", "a" * 65 + ">=1", "accuracy>=٣"],
)  # fmt: skip
def test_what_is_no_gate_is_refused_by_name_and_told_to_quote(text: str) -> None:
    with pytest.raises(errors.InvalidName, match="between quotes"):
        parse([text])


def test_too_many_gates_are_refused() -> None:
    with pytest.raises(errors.InvalidName, match="at most 16"):
        parse(["a>=1"] * 17)


@pytest.mark.parametrize(
    ("gate", "holds"),
    [("a>=0.5", True), ("a<=0.5", True), ("a>0.5", False), ("a<0.5", False), ("a>0.49", True)],
)
def test_each_comparison_means_what_it_says_at_its_bound(gate: str, holds: bool) -> None:
    figures = {"a": Figure(0.5, "from training")}
    if holds:
        check(parse([gate]), figures, "t:1")
        return
    with pytest.raises(errors.GateNotMet):
        check(parse([gate]), figures, "t:1")


def test_a_refusal_has_every_figure_that_falls_short_and_every_missing_one() -> None:
    figures = {"accuracy": Figure(0.8125, "from training"), "f1": Figure(0.9, "from training")}
    with pytest.raises(errors.GateNotMet) as caught:
        check(parse(["accuracy>=0.9", "forgetting<=0.02", "f1>=0.9"]), figures, "triage:4")
    assert caught.value.message == (
        "triage:4 may not be promoted: need accuracy >= 0.9, have 0.8125 (from training); "
        "need forgetting <= 0.02, but it has no forgetting; its figures are: accuracy, f1"
    )


@pytest.fixture
def filled(
    registry: Registry, card: BaseCard, head: Callable[[float], NewPart], lineage: Lineage
) -> Registry:
    """`triage:1` is prod with accuracy 0.8, `triage:2` has accuracy 0.95; tenant `acme`, too."""
    registry.create_tenant("acme")
    for tenant in ("local", "acme"):
        for value, accuracy in ((1.0, 0.8), (2.0, 0.95)):
            figures = {"accuracy": accuracy}
            registry.publish(
                tenant, "triage", card, [head(value)], lineage=lineage, evaluation=figures
            )
        registry.promote(tenant, "triage:1", "prod")
    return registry


def test_an_alias_moves_only_where_every_gate_holds(filled: Registry) -> None:
    with pytest.raises(errors.GateNotMet, match=r"need accuracy >= 0.99, have 0.95"):
        filled.promote("local", "triage:2", "prod", gates=parse(["accuracy>=0.99"]))
    assert filled.resolve("local", "triage").number == 1
    moved = filled.promote("local", "triage:2", "prod", gates=parse(["accuracy>=0.9"]))
    assert moved.aliases == ("prod",)


def test_the_latest_evaluation_counts_and_only_its_tenants(filled: Registry) -> None:
    filled.evidence.evaluate("local", "triage:1", {"accuracy": 0.97, "forgetting": 0.01}, DATASET)
    demanded = parse(["accuracy>=0.96", "forgetting<=0.02"])
    filled.promote("local", "triage:1", "stable", gates=demanded)
    with pytest.raises(errors.GateNotMet, match="has no forgetting"):
        filled.promote("acme", "triage:1", "stable", gates=demanded)
    filled.evidence.evaluate("local", "triage:1", {"accuracy": 0.5}, DATASET)
    with pytest.raises(errors.GateNotMet, match=r"have 0.5 \(evaluated 20.* on sha256:dddd"):
        filled.promote("local", "triage:1", "stable", gates=demanded)
    measured = filled.evidence.evaluations("local", filled.resolve("local", "triage:1").digest)
    assert [each.metrics["accuracy"] for each in measured] == [0.97, 0.5]
    assert {each.dataset_digest for each in measured} == {DATASET}


@pytest.mark.parametrize(
    ("metrics", "dataset", "error"),
    [
        ({}, DATASET, errors.InvalidArtifact),
        ({"a": float("nan")}, DATASET, errors.InvalidArtifact),
        ({"a": float("inf")}, DATASET, errors.InvalidArtifact),
        ({"a b": 1.0}, DATASET, errors.InvalidName),
        ({f"m{i}": 1.0 for i in range(257)}, DATASET, errors.InvalidArtifact),
        ({"a": 1.0}, "sha256:abc", errors.InvalidArtifact),
    ],
)
def test_figures_that_no_gate_could_compare_are_refused(
    filled: Registry, metrics: dict[str, float], dataset: str, error: type[errors.RegistryError]
) -> None:
    with pytest.raises(error):
        filled.evidence.evaluate("local", "triage:1", metrics, dataset)


def test_a_foreign_version_cannot_be_evaluated(filled: Registry) -> None:
    with pytest.raises(errors.NotFound):
        filled.evidence.evaluate("acme", "local/triage:1", {"a": 1.0}, DATASET)


def test_a_jobs_version_that_falls_short_is_kept_and_its_alias_stays(
    registry: Registry, card: BaseCard, head: Callable[[float], NewPart], lineage: Lineage
) -> None:
    first = registry.publish("local", "triage", card, [head(1.0)], lineage=lineage, promote="prod")
    registry.submit_job("local", {})
    job = registry.claim_job("w", 30.0)
    demanded = parse(["accuracy>=0.9", "forgetting<=0.02"])
    second = registry.publish(
        "local", "triage", card, [head(2.0)], lineage=lineage, evaluation={"accuracy": 0.8},
        promote="prod", gates=demanded, job=job,
    )  # fmt: skip
    assert (second.number, second.aliases) == (2, ())
    assert registry.resolve("local", "triage@prod").digest == first.digest
    assert job is not None and registry.job(job.id).state == "succeeded"
    warned = [each for each in registry.job_events("local", job.id) if each.level == "warn"]
    assert len(warned) == 1
    assert "prod stays where it is" in warned[0].message
    assert "have 0.8 (from training)" in warned[0].message
    assert "it has no forgetting" in warned[0].message


def test_a_jobs_version_that_is_good_enough_gets_its_alias(
    registry: Registry, card: BaseCard, head: Callable[[float], NewPart], lineage: Lineage
) -> None:
    registry.submit_job("local", {})
    job = registry.claim_job("w", 30.0)
    made = registry.publish(
        "local", "triage", card, [head(2.0)], lineage=lineage, evaluation={"accuracy": 0.95},
        promote="prod", gates=parse(["accuracy>=0.9"]), job=job,
    )  # fmt: skip
    assert made.aliases == ("prod",)
    told = registry.evidence.audit(object="triage@prod")
    assert told[0].detail["require"] == ["accuracy >= 0.9"]


def test_without_a_job_to_tell_a_gate_that_is_not_met_publishes_nothing(
    registry: Registry, card: BaseCard, head: Callable[[float], NewPart], lineage: Lineage
) -> None:
    with pytest.raises(errors.GateNotMet, match=r"have 0\.5"):
        registry.publish(
            "local", "triage", card, [head(1.0)], lineage=lineage, evaluation={"accuracy": 0.5},
            promote="prod", gates=parse(["accuracy>=0.9"]),
        )  # fmt: skip
    with pytest.raises(errors.NotFound):
        registry.resolve("local", "triage:1")
