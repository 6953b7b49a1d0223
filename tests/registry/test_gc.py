"""Garbage collection deletes what no row names, a grace period later, and never anything else."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry, collect, keeping, leases
from rootstock_registry.errors import Conflict, Unavailable
from rootstock_registry.model import leases as lease_rows
from rootstock_registry.model import metadata, versions
from sqlalchemy import Connection, select, update

from tests.registry.racing import race

Head = Callable[[float], NewPart]
Publish = Callable[..., str]
DAY = 24 * 3600.0


@pytest.fixture
def publish(registry: Registry, card: BaseCard, head: Head, lineage: Lineage) -> Publish:
    def make(value: float, name: str = "triage") -> str:
        version = registry.publish("local", name, card, [head(value)], lineage=lineage)
        return version.digest

    return make


def stored(registry: Registry) -> set[str]:
    return {entry.digest for entry in registry.blobs.entries()}


def blobs_of(registry: Registry, digest: str) -> set[str]:
    return {digest, *(part.blob for part in registry.manifest(digest).parts)}


def age(registry: Registry, home: Path, seconds: float) -> None:
    """Let everything that is stored or marked be so much older."""
    for path in (home / "blobs").rglob("*"):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))
    with registry._database.writes.begin() as connection:
        older = {"expires_at": lease_rows.c.expires_at - seconds}
        marks = lease_rows.c.name.startswith(keeping.MARK)
        connection.execute(update(lease_rows).where(marks).values(**older))


def forget(registry: Registry, digest: str) -> None:
    with registry._database.writes.begin() as connection:
        gone = versions.c.digest == digest
        connection.execute(update(versions).where(gone).values(deleted_at=time.time()))


def test_only_what_is_named_stays_and_the_figures_say_what_was_done(
    registry: Registry, publish: Publish
) -> None:
    kept = blobs_of(registry, publish(1.0))
    strays = [registry.blobs.put(b"x" * size) for size in (10, 20, 30)]
    survey = registry.gc(grace_s=0, dry_run=True)
    assert (survey.blobs, survey.garbage, survey.garbage_size) == (5, 3, 60)
    assert (survey.marked, survey.swept) == (0, 0)
    assert stored(registry) == kept | set(strays)
    done = registry.gc(grace_s=0)
    assert (done.blobs, done.garbage, done.marked, done.swept, done.swept_size) == (5, 3, 3, 3, 60)
    assert done.size == survey.size
    assert stored(registry) == kept
    assert registry.gc(grace_s=0).garbage == 0
    [row] = [row for row in registry.evidence.audit() if row.action == "collect garbage"]
    assert sorted(row.detail["blobs"]) == sorted(strays)


def test_it_takes_a_grace_period_to_be_marked_and_another_to_be_deleted(
    registry: Registry, home: Path
) -> None:
    stray = registry.blobs.put(b"stray")
    assert registry.gc().garbage == 0
    age(registry, home, DAY + 1)
    assert (found := registry.gc()).marked == found.garbage == 1
    assert (again := registry.gc()).marked == again.swept == 0
    assert stored(registry) == {stray}
    age(registry, home, DAY + 1)
    assert registry.gc().swept == 1
    assert stored(registry) == set()


def test_a_deleted_version_can_be_fetched_for_a_grace_period(
    registry: Registry, home: Path, publish: Publish
) -> None:
    digest = publish(1.0)
    needed = blobs_of(registry, digest)
    age(registry, home, 10 * DAY)
    forget(registry, digest)
    assert registry.gc().marked == len(needed)
    assert stored(registry) == needed  # who had resolved it can still read it
    age(registry, home, DAY + 1)
    assert registry.gc().swept == len(needed)
    assert stored(registry) == set()


def test_a_blob_that_two_versions_share_stays_until_both_are_gone(
    registry: Registry, publish: Publish
) -> None:
    first, second = publish(1.0), publish(1.0, "other")
    assert first == second  # one content under two names
    with registry._database.writes.begin() as connection:
        one = (versions.c.name == "triage", versions.c.digest == first)
        connection.execute(update(versions).where(*one).values(deleted_at=time.time()))
    assert registry.gc(grace_s=0).garbage == 0
    forget(registry, first)
    assert registry.gc(grace_s=0).swept == 2


def test_publishing_again_rescues_what_was_marked(
    registry: Registry, home: Path, publish: Publish
) -> None:
    digest = publish(1.0)
    needed = blobs_of(registry, digest)
    forget(registry, digest)
    age(registry, home, DAY + 1)
    assert registry.gc().marked == 2
    assert publish(1.0) == digest
    age(registry, home, DAY + 1)
    assert registry.gc().swept == 0
    assert stored(registry) == needed
    forget(registry, digest)
    assert registry.gc().marked == 2  # the grace period begins anew
    assert stored(registry) == needed


def test_one_at_a_time_and_one_that_was_taken_over_deletes_nothing(
    registry: Registry, opened: Callable[[], Registry]
) -> None:
    strays = {registry.blobs.put(bytes([number])) for number in range(3)}
    scan = collect._Scan(registry._database, registry.blobs, 0)
    with registry._database.writes.begin() as connection:
        lease = leases.take(connection, collect._LEASE_NAME, "host:1", 60)
    stale = collect._Collector(scan, lease)
    for found in scan.batches():
        stale._mark(found)
    other = opened()
    with pytest.raises(Conflict, match=r"garbage collection is held by host:1; try again in \d+ s"):
        other.gc(grace_s=0)
    with other._database.writes.begin() as connection:
        expired = lease_rows.c.name == collect._LEASE_NAME
        connection.execute(update(lease_rows).where(expired).values(expires_at=time.time() - 1))
        taken = leases.take(connection, collect._LEASE_NAME, "host:2", 60)
    with pytest.raises(Conflict, match="taken over"):
        stale._sweep()
    with pytest.raises(Conflict, match="taken over"):
        stale._mark({})
    assert stored(registry) == strays
    with other._database.writes.begin() as connection:
        leases.release(connection, taken)
    assert other.gc(grace_s=0).swept == 3


def test_what_a_killed_put_has_left_is_removed_once_it_is_old(
    registry: Registry, home: Path
) -> None:
    folder = home / "blobs" / "sha256"
    (folder / "ab").mkdir(exist_ok=True)
    left = [folder / ".put-stream", folder / "ab" / ".put-blob"]
    for path in left:
        path.write_bytes(b"half")
    assert registry.gc(grace_s=0).abandoned == 0  # somebody may be writing them
    for path in left:
        os.utime(path, (0, 0))
    assert registry.gc(grace_s=0).abandoned == 2
    assert not any(path.exists() for path in left)


def test_every_column_that_may_name_a_blob_is_a_root_or_is_known_not_to_be() -> None:
    no_blobs = {
        "versions.base_fingerprint", "bases.fingerprint", "base_names.fingerprint",
        "features.base_fingerprint", "parts.version_digest", "jobs.version_digest",
        "evaluations.version_digest", "signatures.version_digest", "exports.version_digest",
        "evaluations.dataset_digest", "features.dataset_digest",
    }  # fmt: skip
    columns = {
        f"{table.name}.{column.name}"
        for table in metadata.tables.values()
        for column in table.columns
        if column.name in ("blob", "digest") or getattr(column.type, "length", None) == 71
    }
    roots = {f"{column.table.name}.{column.name}" for column in keeping.ROOTS}
    assert roots | no_blobs >= columns
    assert not roots & no_blobs


def test_a_blob_that_vanished_before_it_was_named_is_put_again(registry: Registry) -> None:
    taken = itertools.count()

    class Thief:
        """Deletes what was just put, between the put and the transaction; the first two times."""

        def put(self, data: bytes) -> str:
            digest = registry.blobs.put(data)
            if next(taken) < 2:
                registry.blobs.delete([digest])
            return digest

        missing = staticmethod(registry.blobs.missing)

    named: list[Connection] = []
    database = registry._database
    keeping.store(database, Thief(), [b"hello"], named.append)  # type: ignore[arg-type]
    assert len(named) == 1
    assert next(taken) == 3
    assert len(stored(registry)) == 1


def test_a_storage_that_keeps_nothing_is_an_error_and_names_nothing(registry: Registry) -> None:
    class Sieve:
        def put(self, data: bytes) -> str:
            digest = registry.blobs.put(data)
            registry.blobs.delete([digest])
            return digest

        missing = staticmethod(registry.blobs.missing)

    named: list[Connection] = []
    with pytest.raises(Unavailable, match="vanish as fast"):
        keeping.store(registry._database, Sieve(), [b"x"], named.append)  # type: ignore[arg-type]
    assert named == []


def test_publishes_race_collections_and_none_is_lost(
    opened: Callable[[], Registry], card: BaseCard, head: Head, lineage: Lineage
) -> None:
    report = race(opened, card, head, lineage, publishes=200, threads=4, gc_every_s=0.05)
    assert report.lost == []
    assert report.versions == report.published
    assert report.collections > 1
    assert report.swept > 0


def test_fifty_duplicates_from_twenty_threads_are_one_version(
    registry: Registry, publish: Publish
) -> None:
    together = threading.Barrier(20)

    def work(number: int) -> str:
        if number < 20:
            together.wait()
        return publish(1.0)

    with ThreadPoolExecutor(20) as pool:
        digests = set(pool.map(work, range(50)))
    assert len(digests) == 1
    assert [version.number for version in registry.versions("local", "triage")] == [1]
    assert stored(registry) == blobs_of(registry, digests.pop())


def test_leases_grow_their_token_also_after_a_release(registry: Registry) -> None:
    def in_transaction(work: Callable[[Connection], leases.Lease]) -> leases.Lease:
        with registry._database.writes.begin() as connection:
            return work(connection)

    first = in_transaction(lambda connection: leases.take(connection, "thing", "a", 60))
    with pytest.raises(Conflict, match="thing is held by a"):
        in_transaction(lambda connection: leases.take(connection, "thing", "b", 60))
    with registry._database.writes.begin() as connection:
        leases.renew(connection, first, 60)
        leases.release(connection, first)
    second = in_transaction(lambda connection: leases.take(connection, "thing", "b", 60))
    assert (first.fence, second.fence) == (1, 2)
    for late in (leases.renew, lambda c, lease, _: leases.release(c, lease)):
        with registry._database.writes.begin() as connection:
            if late is leases.renew:
                with pytest.raises(Conflict, match="taken over"):
                    late(connection, first, 60)
            else:
                late(connection, first, 60)  # changes nothing that is not its own
    with registry._database.reads.connect() as connection:
        row = connection.execute(select(lease_rows)).one()
    assert (row.owner, row.fence) == ("b", 2)
    assert row.expires_at > time.time()
