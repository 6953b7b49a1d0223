"""The feed: every change is in it, in order; followers hear of it at once and ask for nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Change, Lineage, NewPart, Registry, changes, errors
from sqlalchemy import event

Head = Callable[[float], NewPart]
HEARD_S = 60.0  # at most: a wait ends when something is heard
IDLE_S = 0.8


@pytest.fixture
def filled(registry: Registry, card: BaseCard, head: Head, lineage: Lineage) -> Registry:
    """`triage:1` (prod) and `triage:2`."""
    registry.publish("local", "triage", card, [head(1.0)], lineage=lineage, promote="prod")
    registry.publish("local", "triage", card, [head(2.0)], lineage=lineage)
    return registry


def told(found: list[Change]) -> list[tuple[str | None, str, str]]:
    return [(change.tenant, change.kind, change.name) for change in found]


def test_every_change_is_one_row_and_what_changes_nothing_is_none(
    filled: Registry, card: BaseCard, head: Head, lineage: Lineage
) -> None:
    assert told(filled.changes()) == [
        (None, "base", "tiny"),
        ("local", "version", "triage:1"),
        ("local", "alias", "triage@prod"),
        ("local", "version", "triage:2"),
    ]
    before = filled.changes()[-1].seq
    filled.add_base(card)
    filled.publish("local", "triage", card, [head(1.0)], lineage=lineage, promote="prod")
    filled.promote("local", "triage:1", "prod")
    assert filled.changes(before) == []
    filled.promote("local", "triage:2", "prod")
    filled.rollback("local", "triage", "prod")
    filled.yank("local", "triage:2")
    filled.yank("local", "triage:2")
    filled.delete_version("local", "triage:2")
    filled.delete_version("local", "triage:2")
    filled.set_route("local", "mail", {"triage": 1})
    filled.create_tenant("acme")
    key_id, _ = filled.create_key("acme", "caller")
    filled.delete_alias("local", "triage", "prod", force=True)
    assert told(filled.changes(before)) == [
        ("local", "alias", "triage@prod"),
        ("local", "alias", "triage@prod"),
        ("local", "version", "triage:2"),
        ("local", "version", "triage:2"),
        ("local", "route", "mail"),
        ("acme", "tenant", "acme"),
        ("acme", "key", key_id),
        ("local", "alias", "triage@prod"),
    ]


def test_a_change_that_is_refused_is_not_in_the_feed(filled: Registry) -> None:
    before = filled.changes()
    with pytest.raises(errors.Conflict):
        filled.promote("local", "triage:2", "prod", expected=2)
    with pytest.raises(errors.Conflict):
        filled.delete_adapter("local", "triage")
    assert filled.changes() == before


def test_the_feed_is_read_in_pieces(filled: Registry) -> None:
    whole = filled.changes()
    seqs = [change.seq for change in whole]
    assert seqs == sorted(set(seqs))
    assert filled.changes(0, 2) + filled.changes(seqs[1], 2) == whole


def test_a_reader_never_passes_over_a_change_of_ten_writers(
    opened: Callable[[], Registry], filled: Registry
) -> None:
    done = threading.Event()
    seen: list[int] = []
    reader = opened()

    def read() -> None:
        finished = False
        while not finished:
            finished = done.wait(0.001)  # a reader without a pause starves the writers
            seen.extend(change.seq for change in reader.changes(seen[-1] if seen else 0))

    with ThreadPoolExecutor(11) as pool:
        reading = pool.submit(read)
        aliases = [f"a{number}" for number in range(30)]
        try:
            list(pool.map(lambda alias: filled.promote("local", "triage:1", alias), aliases))
        finally:
            done.set()
        reading.result()
    assert seen == [change.seq for change in filled.changes()]


MOVER = """
import sys, time
from pathlib import Path
from rootstock_registry import Registry
registry = Registry(Path(sys.argv[1]), sys.argv[2] or None)
print("open", flush=True)
for line in sys.stdin:
    registry.promote("local", line.strip(), "prod")
    print(time.time(), flush=True)
"""


def test_an_alias_moved_by_another_process_is_heard_of_at_once(
    filled: Registry, home: Path, database_url: str | None
) -> None:
    command = [sys.executable, "-c", MOVER, str(home), database_url or ""]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as mover,
        filled.follow() as follower,
    ):
        assert mover.stdin and mover.stdout
        assert mover.stdout.readline() == "open\n"
        for number in (2, 1, 2):
            mover.stdin.write(f"triage:{number}\n")
            mover.stdin.flush()
            found = follower.wait(HEARD_S)
            heard = time.time()
            assert told(found) == [("local", "alias", "triage@prod")]
            assert filled.resolve("local", "triage").number == number
            # Sooner than somebody who is told nothing looks for himself.
            assert heard - float(mover.stdout.readline()) < changes.NET_S / 2
        mover.stdin.close()


def test_a_follower_begins_after_the_change_it_names(filled: Registry) -> None:
    whole = filled.changes()
    with filled.follow(whole[1].seq) as follower:
        assert follower.wait(HEARD_S) == whole[2:]
        assert follower.wait(0) == []
    with filled.follow() as follower:
        assert follower.wait(0) == []


def test_what_changes_between_two_waits_is_heard_at_the_next(filled: Registry) -> None:
    with filled.follow() as follower:
        assert follower.wait(0) == []
        filled.promote("local", "triage:2", "prod")
        filled.promote("local", "triage:1", "prod")
        found = follower.wait(HEARD_S)
        while len(found) < 2:
            found += follower.wait(HEARD_S)
        assert told(found) == [("local", "alias", "triage@prod")] * 2
        assert follower.wait(0) == []


def test_more_changes_than_are_read_at_once_are_all_heard(
    filled: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MAX_CHANGES", 3)
    with filled.follow(0) as follower:
        found = follower.wait(HEARD_S) + follower.wait(HEARD_S)
        assert found == filled.changes()
        assert follower.wait(0) == []


def test_an_idle_follower_reads_no_table(filled: Registry, database_url: str | None) -> None:
    asked: list[str] = []
    event.listen(
        filled._database.reads,
        "before_cursor_execute",
        lambda _, __, statement, *___: asked.append(statement),
    )
    with filled.follow() as follower:
        follower.wait(0.3)
        assert any("FROM changes" in statement for statement in asked)
        asked.clear()
        follower.wait(IDLE_S)
    if database_url:  # it is told
        assert asked == []
    else:  # a look at the file's counter each quarter of a second
        assert set(asked) == {"PRAGMA data_version"}
        assert len(asked) <= IDLE_S / changes.LOOK_S + 2


def test_a_listener_that_is_not_told_looks_by_itself(
    registry: Registry, database_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if database_url is None:
        pytest.skip("SQLite tells nobody; its counter is always looked at")
    monkeypatch.setattr(changes, "NET_S", 0.3)
    with registry.follow() as follower:
        follower.wait(0)
        with psycopg.connect(database_url, autocommit=True) as silent:
            silent.execute("INSERT INTO changes (at, kind, name) VALUES (0, 'base', 'quiet')")
        assert told(follower.wait(HEARD_S)) == [(None, "base", "quiet")]
