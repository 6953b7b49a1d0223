"""A clock that jumps by hours or days, or stands still: nothing is lost, nothing happens twice."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry
from rootstock_registry.errors import Conflict, NotFound

Head = Callable[[float], NewPart]
HOUR, DAY = 3600.0, 24 * 3600.0


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float | None], None]:
    """`set_clock(seconds)` shifts the wall clock, `set_clock(None)` stops it."""
    right, stopped = time.time, time.time()

    def shift(seconds: float | None) -> None:
        now = (lambda: stopped) if seconds is None else (lambda: right() + seconds)
        monkeypatch.setattr(time, "time", now)

    return shift


@pytest.mark.parametrize("jump", [HOUR, -HOUR, DAY, -DAY, None])
def test_a_job_is_done_once_and_versions_stay_in_their_order(
    registry: Registry,
    card: BaseCard,
    head: Head,
    lineage: Lineage,
    set_clock: Callable[[float | None], None],
    jump: float | None,
) -> None:
    def publish(value: float) -> str:
        return registry.publish(
            "local", "triage", card, [head(value)], lineage=lineage, promote="prod"
        ).digest

    first = publish(1.0)
    job = registry.submit_job("local", {"method": "head"})
    mine = registry.claim_job("worker-1", 60.0)
    assert mine is not None
    set_clock(jump)
    theirs = registry.claim_job("worker-2", 60.0)
    assert (theirs is not None) == (jump is not None and jump > 60)
    second = publish(2.0)
    done = 0
    for claimed in filter(None, (mine, theirs)):
        try:
            registry.finish_job(claimed, second)
            done += 1
        except Conflict:
            assert claimed is mine
    assert done == 1
    assert registry.job(job.id).state == "succeeded"
    registry.gc()  # with its day of grace: nothing that a row names goes, and no blob of now
    assert [version.digest for version in registry.versions("local", "triage")] == [first, second]
    for digest in (first, second):
        for part in registry.manifest(digest).parts:
            assert registry.blobs.get(part.blob)
    assert registry.resolve("local", "triage").number == 2
    assert registry.rollback("local", "triage", "prod").number == 1
    registry.delete_version("local", "triage:2")
    with pytest.raises(NotFound):
        registry.resolve("local", "triage:2")
    assert registry.evidence.verify_audit().rows == len(registry.evidence.audit(limit=100))
