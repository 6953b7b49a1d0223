"""After a publish: aliases move, go back and disappear; versions are yanked and deleted."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry, Version, errors

Head = Callable[[float], NewPart]


@pytest.fixture
def publish(
    registry: Registry, card: BaseCard, head: Head, lineage: Lineage
) -> Callable[..., Version]:
    def make(value: float, name: str = "triage", promote: str | None = None) -> Version:
        return registry.publish(
            "local", name, card, [head(value)], lineage=lineage, promote=promote
        )

    return make


@pytest.fixture
def three(registry: Registry, publish: Callable[..., Version]) -> Registry:
    """`triage:1` to `triage:3`; `prod` has meant each of them in turn."""
    for value in (1.0, 2.0, 3.0):
        publish(value, promote="prod")
    return registry


def meaning(registry: Registry, alias: str = "prod") -> int:
    return registry.resolve("local", f"triage@{alias}").number


def test_an_alias_goes_back_step_by_step_and_never_forward_again(three: Registry) -> None:
    assert three.rollback("local", "triage", "prod").number == 2
    assert three.rollback("local", "triage", "prod").number == 1
    with pytest.raises(errors.Conflict, match="no earlier version"):
        three.rollback("local", "triage", "prod")
    assert meaning(three) == 1
    moves = three.alias_history("local", "triage", "prod")
    assert [move.number for move in moves] == [1, 2, 3, 2, 1]
    assert moves[0].moved_at >= moves[-1].moved_at


def test_after_going_back_an_alias_may_move_on_and_back_again(three: Registry) -> None:
    three.rollback("local", "triage", "prod")
    three.promote("local", "triage:3", "prod")
    assert three.rollback("local", "triage", "prod").number == 2


def test_going_back_passes_over_what_was_yanked_or_deleted(
    three: Registry, publish: Callable[..., Version]
) -> None:
    publish(4.0, promote="prod")
    three.yank("local", "triage:3", "wrong labels")
    three.delete_version("local", "triage:2")
    assert three.rollback("local", "triage", "prod").number == 1


def test_a_retried_rollback_goes_back_only_once(three: Registry) -> None:
    assert three.rollback("local", "triage", "prod", expected=3).number == 2
    with pytest.raises(errors.Conflict, match="means version 2 now, not 3"):
        three.rollback("local", "triage", "prod", expected=3)
    assert meaning(three) == 2


def test_an_alias_that_was_moved_meanwhile_is_not_moved(three: Registry) -> None:
    three.promote("local", "triage:1", "prod", expected=3)
    with pytest.raises(errors.Conflict, match="means version 1 now, not 3"):
        three.promote("local", "triage:2", "prod", expected=3)
    with pytest.raises(errors.Conflict, match="means version 1 now, not 0"):
        three.promote("local", "triage:2", "prod", expected=0)
    three.promote("local", "triage:2", "canary", expected=0)
    assert (meaning(three), meaning(three, "canary")) == (1, 2)


def test_of_ten_who_move_an_alias_from_the_same_state_one_does(three: Registry) -> None:
    refused: list[str] = []

    def move(number: int) -> None:
        try:
            three.promote("local", f"triage:{1 + number % 2}", "prod", expected=3)
        except errors.Conflict as error:
            refused.append(error.message)

    threads = [threading.Thread(target=move, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 9
    assert len(three.alias_history("local", "triage", "prod")) == 4


def test_rolling_back_what_never_was_is_not_found(three: Registry) -> None:
    for name, alias in (("triage", "canary"), ("nobody", "prod")):
        with pytest.raises(errors.NotFound, match=f"'{name}' has never had an alias '{alias}'"):
            three.rollback("local", name, alias)


def test_a_deleted_alias_means_nothing_and_its_history_stays(three: Registry) -> None:
    three.delete_alias("local", "triage", "prod")
    three.delete_alias("local", "triage", "prod")
    with pytest.raises(errors.NotFound, match="no alias 'prod'"):
        three.resolve("local", "triage")
    moves = three.alias_history("local", "triage", "prod")
    assert [move.number for move in moves] == [None, 3, 2, 1]
    with pytest.raises(errors.NotFound, match="'nobody' does not exist"):
        three.delete_alias("local", "nobody", "prod")


def test_an_alias_that_a_route_goes_through_is_deleted_only_by_force(three: Registry) -> None:
    three.set_route("local", "mail", {"triage": 1})
    with pytest.raises(errors.Conflict, match="task 'mail' leads to triage"):
        three.delete_alias("local", "triage", "prod")
    three.delete_alias("local", "triage", "prod", force=True)


def test_a_yanked_version_is_found_by_number_and_digest_and_refused_to_aliases(
    three: Registry,
) -> None:
    digest = three.resolve("local", "triage:2").digest
    yanked = three.yank("local", "triage:2", "wrong labels")
    assert yanked.yank_reason == "wrong labels" and yanked.yanked_at is not None
    assert three.yank("local", "triage:2", "wrong labels") == yanked
    assert three.resolve("local", "triage:2") == three.version(digest) == yanked
    with pytest.raises(errors.Conflict, match=r"triage:2 was yanked \(wrong labels\)"):
        three.promote("local", "triage:2", "prod")
    assert three.unyank("local", "triage:2").yanked_at is None
    assert three.promote("local", "triage:2", "prod").number == 2


def test_an_alias_that_means_a_version_when_it_is_yanked_keeps_serving(three: Registry) -> None:
    three.yank("local", "triage:3")
    assert meaning(three) == 3
    assert three.adapters("local")[0].latest == 2
    three.promote("local", "triage:3", "prod")  # it means that already: nothing happens
    three.promote("local", "triage:1", "prod")
    with pytest.raises(errors.Conflict, match="was yanked"):
        three.promote("local", "triage:3", "prod")


def test_publishing_yanked_content_again_moves_no_alias_to_it(
    three: Registry, publish: Callable[..., Version]
) -> None:
    three.yank("local", "triage:1")
    with pytest.raises(errors.Conflict, match="was yanked"):
        publish(1.0, promote="prod")
    assert publish(1.0).number == 1
    assert meaning(three) == 3


def test_what_is_yanked_or_deleted_is_named_by_number(three: Registry) -> None:
    for act in (three.yank, three.unyank, three.delete_version):
        with pytest.raises(errors.InvalidName, match="say which version, as NAME:NUMBER"):
            act("local", "triage@prod")
        with pytest.raises(errors.NotFound, match="no version 9"):
            act("local", "triage:9")


def test_a_deleted_version_is_gone_and_its_number_is_never_given_again(
    three: Registry, publish: Callable[..., Version]
) -> None:
    third = three.resolve("local", "triage:3")
    three.promote("local", "triage:1", "prod")
    three.delete_version("local", "triage:3")
    three.delete_version("local", "triage:3")
    with pytest.raises(errors.NotFound, match="no version 3; it has 1, 2"):
        three.resolve("local", "triage:3")
    with pytest.raises(errors.NotFound):
        three.version(third.digest)
    assert [version.number for version in three.versions("local", "triage")] == [1, 2]
    assert publish(4.0).number == 4


def test_deleted_content_that_is_published_again_is_there_under_its_number(
    three: Registry, publish: Callable[..., Version]
) -> None:
    second = three.resolve("local", "triage:2")
    three.delete_version("local", "triage:2")
    assert publish(2.0) == second


def test_a_version_that_is_in_use_is_deleted_only_by_force(three: Registry) -> None:
    with pytest.raises(errors.Conflict, match="triage@prod means"):
        three.delete_version("local", "triage:3")
    three.set_route("local", "mail", {"triage:2": 1}, "triage:1")
    for ref in ("triage:2", "triage:1"):
        with pytest.raises(errors.Conflict, match=f"task 'mail' leads to {ref}"):
            three.delete_version("local", ref)
    assert len(three.versions("local", "triage")) == 3
    for number in (1, 2, 3):
        three.delete_version("local", f"triage:{number}", force=True)
    assert three.adapters("local") == three.versions("local", "triage") == []
    assert three.alias_history("local", "triage", "prod")[0].number is None


def test_an_adapter_is_deleted_with_all_its_versions_and_numbers_go_on(
    three: Registry, publish: Callable[..., Version]
) -> None:
    publish(9.0, "other", promote="prod")
    with pytest.raises(errors.Conflict, match="triage@prod"):
        three.delete_adapter("local", "triage")
    three.delete_adapter("local", "triage", force=True)
    three.delete_adapter("local", "triage")
    with pytest.raises(errors.NotFound, match="'triage' does not exist"):
        three.resolve("local", "triage")
    assert [adapter.name for adapter in three.adapters("local")] == ["other"]
    assert publish(5.0).number == 4
    with pytest.raises(errors.NotFound):
        three.delete_adapter("local", "nobody")


def test_another_tenant_can_move_yank_and_delete_nothing(three: Registry) -> None:
    three.create_tenant("globex")
    for act in (
        lambda: three.rollback("globex", "triage", "prod"),
        lambda: three.yank("globex", "triage:1"),
        lambda: three.delete_alias("globex", "triage", "prod"),
        lambda: three.delete_version("globex", "triage:1", force=True),
        lambda: three.delete_adapter("globex", "triage", force=True),
    ):
        with pytest.raises(errors.NotFound):
            act()
    assert three.alias_history("globex", "triage", "prod") == []
    assert meaning(three) == 3


def test_what_stays_of_two_names_for_one_content_is_found_by_digest(
    registry: Registry, publish: Callable[..., Version]
) -> None:
    first, second = publish(1.0, "first"), publish(1.0, "second")
    registry.delete_version("local", "first:1")
    assert registry.version(first.digest) == second
