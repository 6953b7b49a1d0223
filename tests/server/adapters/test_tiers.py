"""The host tier: a version evicted from its slot comes back unread, within a bound of bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from rootstock_server.adapters.residency import Residency
from rootstock_server.adapters.slots import Slots
from rootstock_server.adapters.tiers import HostTier, Loaded
from rootstock_server.backends.reference import Reference


@pytest.fixture
def slots(groups) -> Slots:
    return Slots(groups, max_rank=64, backend=Reference())


@pytest.fixture
def loaded(shelf, slots) -> Callable[[str], Loaded]:
    def load(name: str) -> Loaded:
        version = shelf.fetch(name)
        return Loaded(replace(version, linears={}), slots.pack(version.linears))

    return load


@pytest.fixture
def version(loaded) -> Loaded:
    return loaded("a")


def test_the_least_recently_used_goes_first(version):
    tier = HostTier(2 * version.nbytes)
    tier.put("a", version)
    tier.put("b", version)
    assert tier.get("a") is version
    tier.put("c", version)
    assert [tier.get(name) is version for name in "abc"] == [True, False, True]


def test_a_version_larger_than_the_tier_is_not_kept_and_drives_nobody_out(loaded, version):
    tier = HostTier(version.nbytes)
    tier.put("a", version)
    tier.put("wide", loaded("wide"))
    assert tier.get("a") is version and tier.get("wide") is None


@pytest.mark.parametrize(("versions_kept", "fetches"), [(8, 3), (0, 4)])
def test_what_left_its_slot_is_read_again_only_where_the_tier_has_no_room(
    slots, shelf, version, versions_kept, fetches
):
    shelf.fetched.clear()
    tier = HostTier(versions_kept * version.nbytes)
    one = Residency(slots, shelf.fetch, 2 * version.nbytes, tier)
    try:
        for digest in ("a", "b", "c", "a"):
            for _ in range(2):
                one.settle([{digest}])
                for load in list(one._loading.values()):
                    load.result(60)
            assert one.available(digest)
        assert len(shelf.fetched) == fetches
    finally:
        one.close()
