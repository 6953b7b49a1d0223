"""Comparisons: whose they are, in which order they are listed, and that each ends once."""

from __future__ import annotations

import math

import pytest
from rootstock_registry import Registry, errors

SPEC = {"model": "tiny", "methods": ["head"], "runs": []}


def test_a_comparison_is_created_running_and_ends_once(registry: Registry) -> None:
    made = registry.create_comparison("local", SPEC)
    assert (made.state, made.spec, made.result, made.finished_at) == ("running", SPEC, None, None)
    assert registry.comparison("local", made.id) == made
    assert registry.running_comparisons() == [made]
    ended = registry.finish_comparison(made, {"metric": "accuracy"}, failed=False)
    assert (ended.state, ended.result) == ("succeeded", {"metric": "accuracy"})
    assert ended.finished_at is not None and ended.finished_at >= ended.created_at
    with pytest.raises(errors.Conflict, match="has ended already"):
        registry.finish_comparison(made, {"metric": "other"}, failed=True)
    assert registry.comparison("local", made.id) == ended
    assert registry.running_comparisons() == []


def test_lists_are_newest_first_in_pages_and_a_tenants_own(registry: Registry) -> None:
    registry.create_tenant("acme")
    theirs = registry.create_comparison("acme", SPEC)
    ids = [registry.create_comparison("local", SPEC).id for _ in range(5)]
    first = registry.comparisons("local", limit=2)
    assert [each.id for each in first.data] == ids[:-3:-1] and first.has_more
    rest = registry.comparisons("local", limit=9, after=first.data[-1].id)
    assert [each.id for each in rest.data] == ids[2::-1] and not rest.has_more
    assert [each.id for each in registry.comparisons("acme").data] == [theirs.id]


def test_what_a_tenant_does_not_have_does_not_exist(registry: Registry) -> None:
    registry.create_tenant("acme")
    theirs = registry.create_comparison("acme", SPEC)
    for foreign in (theirs.id, "cmp_nothing"):
        with pytest.raises(errors.NotFound, match=f"comparison '{foreign}' does not exist"):
            registry.comparison("local", foreign)
        with pytest.raises(errors.NotFound):
            registry.comparisons("local", after=foreign)
    with pytest.raises(errors.NotFound):
        registry.create_comparison("nobody", SPEC)


def test_figures_without_a_json_form_are_refused(registry: Registry) -> None:
    made = registry.create_comparison("local", SPEC)
    with pytest.raises(errors.InvalidArtifact, match="comparison result"):
        registry.finish_comparison(made, {"loss": math.nan}, failed=False)
    assert registry.comparison("local", made.id).state == "running"
