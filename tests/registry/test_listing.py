"""Lists come page by page, in one order, and say what a version's manifest would."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry, errors
from rootstock_registry.model import aliases

Head = Callable[[float], NewPart]


@pytest.fixture
def filled(registry: Registry, card: BaseCard, head: Head, lineage: Lineage) -> Registry:
    """Names whose order depends on how they are compared; `b` has five versions."""
    for name in ("b.c", "ba", "b", "b-c", "b_c", "0"):
        registry.publish("local", name, card, [head(0.0)], lineage=lineage, promote="prod")
    for value in range(1, 5):
        registry.publish("local", "b", card, [head(value)], lineage=lineage, promote="canary")
    registry.create_tenant("acme")
    registry.publish("acme", "theirs", card, [head(0.0)], lineage=lineage)
    return registry


def test_adapters_come_by_name_in_pages(filled: Registry) -> None:
    names = ["0", "b", "b-c", "b.c", "b_c", "ba"]
    assert [adapter.name for adapter in filled.adapters("local")] == names
    seen: list[str] = []
    for expected in (4, 2):
        page = filled.adapter_page("local", after=seen[-1] if seen else None, limit=4)
        assert len(page.data) == expected
        seen += [adapter.name for adapter in page.data]
        assert page.has_more == (seen != names)
    assert seen == names
    exact = filled.adapter_page("local", limit=6)
    assert (len(exact.data), exact.has_more) == (6, False)
    assert filled.adapter_page("local", after="zzz").data == ()


def test_an_adapter_is_shown_with_its_latest_version_and_its_aliases(filled: Registry) -> None:
    shown = filled.adapter_page("local", after="0", limit=1).data[0]
    assert (shown.name, shown.base, shown.kinds) == ("b", "tiny", ("head",))
    assert (shown.latest, shown.aliases) == (5, {"canary": 5, "prod": 1})


def test_an_adapter_shows_every_alias_however_many_there_are(filled: Registry) -> None:
    more = {f"a{number:04}": 1 for number in range(600)}
    rows = [{"tenant": "local", "name": "b", "alias": a, "number": n} for a, n in more.items()]
    with filled._database.writes.begin() as connection:
        connection.execute(aliases.insert(), rows)
    assert filled.adapter("local", "b").aliases == more | {"canary": 5, "prod": 1}


def test_versions_come_newest_first_in_pages(filled: Registry) -> None:
    first = filled.version_page("local", "b", limit=3)
    assert ([version.number for version in first.data], first.has_more) == ([5, 4, 3], True)
    rest = filled.version_page("local", "b", after=first.data[-1].number, limit=3)
    assert ([version.number for version in rest.data], rest.has_more) == ([2, 1], False)


def test_a_version_in_a_list_says_what_its_manifest_says(filled: Registry) -> None:
    filled.yank("local", "b:5", "too eager")
    listed = filled.version_page("local", "b", limit=1).data[0]
    version = filled.resolve("local", "b:5")
    assert (listed.ref, listed.digest, listed.aliases) == ("b:5", version.digest, ("canary",))
    assert listed.kinds == tuple(part.kind for part in version.manifest.parts)
    assert listed.size == sum(part.size for part in version.manifest.parts)
    assert (listed.created_at, listed.base) == (version.created_at, version.manifest.base.name)
    assert (listed.yanked_at, listed.yank_reason) == (version.yanked_at, "too eager")


def test_what_is_deleted_is_in_no_list(filled: Registry) -> None:
    filled.delete_version("local", "b:4")
    filled.delete_adapter("local", "ba", force=True)
    assert [v.number for v in filled.version_page("local", "b").data] == [5, 3, 2, 1]
    assert "ba" not in [adapter.name for adapter in filled.adapter_page("local").data]


def test_another_tenants_things_are_in_no_list(filled: Registry) -> None:
    assert [adapter.name for adapter in filled.adapter_page("acme").data] == ["theirs"]
    assert filled.version_page("acme", "b").data == ()


@pytest.mark.parametrize("limit", [0, -1, 101])
def test_a_page_has_1_to_100_entries(filled: Registry, limit: int) -> None:
    for ask in (
        lambda: filled.adapter_page("local", limit=limit),
        lambda: filled.version_page("local", "b", limit=limit),
    ):
        with pytest.raises(errors.InvalidName, match=f"limit: {limit} is not 1 to 100"):
            ask()
