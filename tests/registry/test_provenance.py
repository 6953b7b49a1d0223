"""Where a version came from and went is kept beside it, each tenant's for itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry, errors
from rootstock_registry.provenance import Dataset

DIGEST = "sha256:" + "d" * 64


def test_a_dataset_is_described_once_for_each_tenant(registry: Registry) -> None:
    made = Dataset(DIGEST, 400, ("text", "label"))
    for _ in range(2):
        registry.evidence.describe_dataset("local", made)
    assert registry.evidence.dataset("local", DIGEST) == made
    registry.create_tenant("acme")
    assert registry.evidence.dataset("acme", DIGEST) is None
    assert registry.evidence.dataset("local", None) is None
    assert registry.gc(grace_s=0).garbage == 0  # a digest of rows is no blob


def test_an_export_is_kept_with_what_was_measured_of_it_and_audited(
    registry: Registry, card: BaseCard, head: Callable[[float], NewPart], lineage: Lineage
) -> None:
    version = registry.publish("local", "triage", card, [head(1.0)], lineage=lineage)
    for target, report in (("onnx", {"texts": 24, "max_difference": 1e-7}), ("peft", {})):
        registry.evidence.exported("local", "triage:1", target, report)
    kept = registry.evidence.exports("local", version.digest)
    assert [(each.target, dict(each.report)) for each in kept] == [
        ("onnx", {"texts": 24, "max_difference": 1e-7}), ("peft", {}),
    ]  # fmt: skip
    row = registry.evidence.audit(limit=1)[0]
    assert (row.action, row.object, row.detail) == ("export", "triage:1", {"target": "peft"})
    registry.create_tenant("acme")
    assert registry.evidence.exports("acme", version.digest) == []
    with pytest.raises(errors.NotFound):
        registry.evidence.exported("acme", "triage:1", "onnx", {})
