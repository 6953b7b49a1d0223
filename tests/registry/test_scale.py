"""10,000 versions: what a request and a page ask for does not take longer for it."""

from __future__ import annotations

from rootstock_registry import Registry

from benchmarks.registry import DEEP, TENANT, fill, measure

VERSIONS = 10_000
# Many times what a quiet machine takes, in the best of three: tests share theirs.
RESOLVE_MS, PAGE_MS = 5.0, 100.0


def test_resolving_and_listing_among_ten_thousand_versions_is_quick(registry: Registry) -> None:
    refs = fill(registry, VERSIONS)
    assert sum(len(registry.versions(TENANT, f"adapter-{n:05d}")) for n in range(3)) == 60
    newest = registry.version_page(TENANT, DEEP, limit=1)
    assert (newest.data[0].number, newest.has_more) == (VERSIONS // 2, True)
    for _ in range(3):
        figures = measure(registry, refs)
        slow = figures["resolve"] >= RESOLVE_MS or max(figures.values()) >= PAGE_MS
        if not slow:
            break
    assert not slow, figures
    assert len(registry.adapters(TENANT)) == VERSIONS // 2 // 20 + 1
