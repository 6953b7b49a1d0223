"""The host tier: fetched once while it fits, bounded in bytes, oldest use out first."""

from __future__ import annotations

from rootstock_server.adapters.tiers import HostTier


def test_a_version_is_fetched_once_while_there_is_room(shelf):
    tier = HostTier(shelf.fetch, 1 << 20)
    first = tier("a")
    assert tier("a") is first
    assert shelf.fetched == ["a"]


def test_the_least_recently_used_goes_first(shelf):
    size = shelf.fetch("a").host_bytes
    tier = HostTier(shelf.fetch, 2 * size)
    shelf.fetched.clear()
    for digest in ("a", "b", "a", "c", "a", "b"):
        tier(digest)
    assert shelf.fetched == ["a", "b", "c", "b"]


def test_a_version_larger_than_the_tier_passes_through_and_drives_nobody_out(shelf):
    size = shelf.fetch("a").host_bytes
    tier = HostTier(shelf.fetch, size)
    shelf.fetched.clear()
    tier("a")
    tier("wide")
    tier("a")
    assert shelf.fetched == ["a", "wide"]


def test_a_failed_fetch_is_tried_again(shelf):
    tier = HostTier(shelf.fetch, 1 << 20)
    shelf.broken["a"] = RuntimeError("disk")
    for _ in range(2):
        try:
            tier("a")
        except RuntimeError:
            continue
        raise AssertionError("the error was swallowed")
    del shelf.broken["a"]
    assert tier("a").linears
