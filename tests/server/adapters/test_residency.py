"""Which versions are resident: in bounds, never under a lease's feet, each in its turn."""

from __future__ import annotations

import select
from collections.abc import Sequence
from threading import Event

import pytest
import torch
from rootstock_server.adapters.residency import LOADERS, Residency
from rootstock_server.errors import AdapterMismatch, CorruptAdapter


def settle(residency: Residency, waiting: Sequence[set[str]], times: int = 1) -> dict:
    """Let all loads that are under way finish, and put them into place; `times` over."""
    failed = {}
    for _ in range(times):
        failed |= residency.settle(waiting)
        for load in list(residency._loading.values()):
            load.exception(60)
        failed |= residency.settle(waiting)
    return failed


def resident(residency: Residency) -> list[str]:
    return [version.digest for version in residency]


def bring(residency: Residency, *digests: str) -> None:
    for digest in digests:
        settle(residency, [{digest}])
        assert residency.available(digest)


def test_the_least_recently_used_goes_first(residency):
    one = residency(3)
    bring(one, "a", "b", "c")
    one.lease("a")
    one.release("a")
    bring(one, "d")
    assert sorted(resident(one)) == ["a", "c", "d"]


def test_a_pinned_version_comes_unasked_and_stays_until_it_is_let_go(residency):
    one = residency(2)
    one.pin({"p"})
    settle(one, [])
    assert one.available("p")
    bring(one, "a", "b", "c")
    assert sorted(resident(one)) == ["c", "p"]
    one.pin(set())
    bring(one, "d", "e")
    assert sorted(resident(one)) == ["d", "e"]


def test_who_waits_is_loaded_before_what_is_pinned(residency, shelf):
    one = residency(3)
    one.pin({"p", "q"})
    settle(one, [{"a"}])
    assert shelf.fetched[0] == "a"


def test_what_is_pinned_and_what_is_asked_for_beside_it_must_fit_together(residency):
    one = residency(1)
    one.pin({"p"})
    settle(one, [])
    failed = settle(one, [{"a"}])
    assert isinstance(failed["a"], AdapterMismatch) and one.available("p")


def test_a_pinned_version_that_is_damaged_is_not_read_in_every_step(residency, shelf):
    one = residency(2)
    shelf.broken["p"] = CorruptAdapter("damaged")
    one.pin({"p"})
    settle(one, [], times=5)
    assert shelf.fetched == ["p"]


def test_loaders_leave_the_cores_to_the_steps(residency, shelf, monkeypatch):
    """A second team of OpenMP's threads would slow down every step from then on."""
    fetch, threads = shelf.fetch, []

    def counted(digest):
        threads.append(torch.get_num_threads())
        return fetch(digest)

    monkeypatch.setattr(shelf, "fetch", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        bring(residency(2), "a")
        assert threads == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_leased_version_is_never_evicted(residency):
    one = residency(2)
    bring(one, "a", "b")
    lease = one.lease("a")
    bring(one, "c", "d", "e")
    assert sorted(resident(one)) == ["a", "e"]
    assert next(v for v in one if v.digest == "a") is lease


def test_a_version_that_waits_for_room_gets_it_though_others_keep_coming(residency):
    """Leases on a and b overlap without a gap: somebody must stop getting new ones."""
    one = residency(2)
    bring(one, "a", "b")
    held = {digest: one.lease(digest) for digest in ("a", "b")}
    for _ in range(5):
        settle(one, [{"c"}])
        if one.available("c"):
            break
        for digest in list(held):
            if one.available(digest):
                one.lease(digest)  # the next request for it, while the last one still runs
                one.release(digest)
            else:
                one.release(held.pop(digest).digest)
    assert one.available("c")
    assert sorted(resident(one)) == ["b", "c"]


def test_a_leaving_version_stays_when_nobody_waits_for_its_room_any_more(residency):
    one = residency(1)
    bring(one, "a")
    one.lease("a")
    settle(one, [{"b"}])
    assert not one.available("a")
    settle(one, [])
    assert one.available("a")


def test_younger_loads_do_not_take_the_room_that_an_older_one_waits_for(residency):
    """The wide version needs the room of several narrow ones; they come free one by one."""
    one = residency(8)
    narrow = [f"n{number}" for number in range(8)]
    bring(one, *narrow)
    for digest in narrow:
        one.lease(digest)
    younger = [f"m{number}" for number in range(8)]
    for digest in narrow:
        settle(one, [{"wide"}, *({each} for each in younger)])
        for each in [each for each in younger if one.available(each)]:
            one.lease(each)
            younger.remove(each)
        one.release(digest)
    settle(one, [{"wide"}])
    assert one.available("wide")


def test_requests_for_two_versions_each_do_not_wait_for_one_another(residency):
    """Each has half of what it needs and the memory is full: the older request goes first."""
    one = residency(2)
    bring(one, "a", "c")
    first, second = {"a", "b"}, {"c", "d"}
    settle(one, [first, second])
    assert one.available("a") and one.available("b")
    for digest in first:
        one.lease(digest)
    settle(one, [second])
    for digest in first:
        one.release(digest)
    settle(one, [second])
    assert one.available("c") and one.available("d")


def test_what_never_fits_together_is_told(residency):
    one = residency(2)
    bring(one, "a")
    failed = settle(one, [{"a", "b", "c"}], times=2)
    assert [type(error) for error in failed.values()] == [AdapterMismatch]
    assert "adapter_memory_mib" in next(iter(failed.values())).message


def test_what_never_fits_alone_is_told(residency):
    failed = settle(residency(3), [{"wide"}])
    assert isinstance(failed["wide"], AdapterMismatch)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (CorruptAdapter("damaged"), CorruptAdapter),
        (AdapterMismatch("other base"), AdapterMismatch),
        (KeyError("a bug in a kind"), CorruptAdapter),
        (OSError("the disk"), CorruptAdapter),
    ],
)
def test_a_load_that_fails_is_told_and_tried_again_when_asked_again(residency, shelf, error, told):
    one = residency(2)
    shelf.broken["a"] = error
    assert type(settle(one, [{"a"}, {"b"}])["a"]) is told
    assert one.available("b") and not one.available("a")
    del shelf.broken["a"]
    bring(one, "a")


def test_loads_run_a_few_at_a_time_in_the_order_of_the_requests(residency, shelf):
    one = residency(8)
    digests = [f"v{number}" for number in range(5)]
    shelf.held = {digest: Event() for digest in digests}
    waiting = [{digest} for digest in digests]
    one.settle(waiting)
    assert list(one._loading) == digests[:LOADERS]
    for digest in digests:
        shelf.held[digest].set()
    settle(one, waiting, times=3)
    assert sorted(resident(one)) == digests


def test_a_finished_load_wakes_whoever_polls(residency, shelf):
    one = residency(2)
    shelf.held["a"] = Event()
    one.settle([{"a"}])
    assert select.select([one.wake], [], [], 0)[0] == []
    shelf.held["a"].set()
    assert select.select([one.wake], [], [], 60)[0] == [one.wake]
    one.settle([{"a"}])
    assert select.select([one.wake], [], [], 0)[0] == []


def test_a_load_that_nobody_waits_for_any_more_takes_no_room(residency):
    one = residency(1)
    one.settle([{"a"}])
    settle(one, [])
    assert resident(one) == [] and not one._loading
