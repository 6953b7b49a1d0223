"""The host tier: a version evicted from its slot comes back unread, within a bound of bytes."""

from __future__ import annotations

import pytest
from rootstock_adapters.op import Prepared
from rootstock_server.adapters.residency import Residency
from rootstock_server.adapters.slots import Slots
from rootstock_server.adapters.tiers import HostTier
from rootstock_server.backends.reference import Reference


@pytest.fixture
def version(shelf) -> Prepared:
    return shelf.fetch("a")


def test_the_least_recently_used_goes_first(version):
    tier = HostTier(2 * version.host_bytes)
    tier.put("a", version)
    tier.put("b", version)
    assert tier.get("a") is version
    tier.put("c", version)
    assert [tier.get(name) is version for name in "abc"] == [True, False, True]


def test_a_version_larger_than_the_tier_is_not_kept_and_drives_nobody_out(shelf, version):
    tier = HostTier(version.host_bytes)
    tier.put("a", version)
    tier.put("wide", shelf.fetch("wide"))
    assert tier.get("a") is version and tier.get("wide") is None


@pytest.mark.parametrize(("versions_kept", "fetches"), [(8, 3), (0, 4)])
def test_what_left_its_slot_is_read_again_only_where_the_tier_has_no_room(
    groups, shelf, version, versions_kept, fetches
):
    slots = Slots(groups, max_rank=64, backend=Reference())
    shelf.fetched.clear()
    one = Residency(
        slots, shelf.fetch, 2 * slots.slot_bytes(version.linears),
        HostTier(versions_kept * version.host_bytes),
    )  # fmt: skip
    try:
        for digest in ("a", "b", "c", "a"):
            for _ in range(2):
                one.settle([{digest}])
                for load in list(one._loading.values()):
                    load.result(5)
            assert one.available(digest)
        assert len(shelf.fetched) == fetches
    finally:
        one.close()
