"""Blobs in a bucket: created once, checked at every read, patient with a server that stumbles."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import BlobStore, Lineage, NewPart, Registry, Version, blob_bucket
from rootstock_registry.errors import CorruptBlob, NotFound, Quarantined, Unavailable

from tests.registry.buckets import Proxy, proxy_to, s3_server

Head = Callable[[float], NewPart]
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxy_to(server) as proxy:
        environment = {
            "AWS_ENDPOINT_URL": proxy.address,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def place(proxy: Proxy, tmp_path: Path) -> str:
    """A part of the bucket that only this test uses."""
    return f"s3://shelf/{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:12]}"


@pytest.fixture
def blobs(place: str) -> BlobStore:
    return BlobStore(place)


@pytest.fixture
def objects(place: str) -> S3Store:
    return S3Store.from_url(place, client_options={"allow_http": True})


def key(digest: str) -> str:
    return f"sha256/{digest[7:9]}/{digest[9:]}"


def test_bytes_lie_under_their_hash_and_are_created_only_where_there_is_nothing(
    blobs: BlobStore, objects: S3Store, proxy: Proxy
) -> None:
    digest = blobs.put(b"hello")
    assert digest == "sha256:" + hashlib.sha256(b"hello").hexdigest()
    assert blobs.get(digest) == b"hello"
    assert bytes(obstore.get(objects, key(digest)).bytes()) == b"hello"
    assert blobs.put(b"hello") == digest
    puts = [headers for method, _, headers in proxy.requests if method == "PUT"]
    assert [headers.get("if-none-match") for headers in puts] == ["*", "*"]
    [entry] = blobs.entries()
    assert (entry.digest, entry.size) == (digest, 5)
    assert abs(entry.modified_at - time.time()) < 60
    other = "sha256:" + "0" * 64
    assert blobs.missing([digest, other]) == [other]
    blobs.delete([digest, other])
    assert list(blobs.entries()) == []
    with pytest.raises(NotFound, match=digest):
        blobs.get(digest)


def test_many_threads_may_put_the_same_bytes(blobs: BlobStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(blobs.put, [b"x" * 10_000] * 16))
    assert [entry.digest for entry in blobs.entries()] == list(digests)


def test_other_bytes_under_the_name_are_refused_and_repaired_by_putting_again(
    blobs: BlobStore, objects: S3Store
) -> None:
    digest = blobs.put(b"hello")
    obstore.put(objects, key(digest), b"hellO")
    with pytest.raises(CorruptBlob, match=digest):
        blobs.get(digest)
    blobs.put(b"hello")
    assert blobs.get(digest) == b"hello"


@pytest.mark.parametrize("fault", ["500", "503", "reset", "short", "wrong", "409"])
def test_a_fault_that_passes_is_not_noticed(blobs: BlobStore, proxy: Proxy, fault: str) -> None:
    digest = blobs.put(b"before" * 1000)
    if fault != "409":  # which only a put can meet
        proxy.faults.extend([fault])
        assert blobs.get(digest) == b"before" * 1000
    if fault != "wrong":  # which only a read can meet
        proxy.faults.extend(["500" if fault == "short" else fault])
        later = blobs.put(b"later" * 1000)
        assert blobs.get(later) == b"later" * 1000
    assert not proxy.faults


def test_a_server_that_hangs_is_asked_again(
    place: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = BlobStore(place).put(b"hello")
    monkeypatch.setitem(blob_bucket._CLIENT, "read_timeout", "500ms")  # type: ignore[misc]
    blobs = BlobStore(place)
    proxy.faults.append("hang")
    assert blobs.get(digest) == b"hello"


def test_a_server_that_stays_down_is_given_up_in_words(blobs: BlobStore, proxy: Proxy) -> None:
    digest = blobs.put(b"hello")
    before = len(proxy.requests)
    proxy.faults.extend(["503"] * 50)
    start = time.monotonic()
    with pytest.raises(Unavailable, match="cannot be read now"):
        blobs.get(digest)
    assert len(proxy.requests) - before == 1 + 4
    with pytest.raises(Unavailable, match="cannot be written now"):
        blobs.put(b"other")
    assert time.monotonic() - start < 30
    proxy.faults.clear()
    assert [entry.digest for entry in blobs.entries()] == [digest]


def test_a_deletion_is_never_tried_again(blobs: BlobStore, proxy: Proxy) -> None:
    digest = blobs.put(b"hello")
    proxy.requests.clear()
    proxy.faults.extend(["503"] * 5)
    with pytest.raises(Unavailable):
        blobs.delete([digest])
    assert len(proxy.requests) == 1


def test_what_is_wrong_with_the_bucket_is_said(proxy: Proxy) -> None:
    missing = BlobStore("s3://no-such-bucket/x")
    for attempt in (lambda: missing.put(b"x"), lambda: missing.get("sha256:" + "0" * 64)):
        with pytest.raises(Unavailable, match="'no-such-bucket' does not exist; make it"):
            attempt()
    with pytest.raises(Unavailable, match="'no-such-bucket' does not exist; make it"):
        list(missing.entries())
    shelf = BlobStore("s3://shelf/x")
    proxy.faults.append("403")
    with pytest.raises(Unavailable, match="no permission for it; they need GetObject"):
        shelf.put(b"x")
    for url in ("gs://shelf/x", "s3://", "s3://shelf/x?y=1", "https://shelf/x"):
        with pytest.raises(Unavailable, match="neither a folder nor s3://BUCKET/PREFIX"):
            BlobStore(url)


STREAM = """
import resource, sys
from rootstock_registry import BlobStore
blobs = BlobStore(sys.argv[1])
blobs.put(b"warm" * 1000)
chunk = bytes(range(256)) * 4096
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
digest, size = blobs.put_stream(chunk for _ in range(int(sys.argv[2])))
print(digest, size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_stream_goes_up_in_pieces_and_takes_little_memory(
    place: str, server: str, proxy: Proxy, blobs: BlobStore
) -> None:
    environment = dict(os.environ, AWS_ENDPOINT_URL=server)
    command = [sys.executable, "-c", STREAM, place, "80"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    digest, size, grown_kib = done.stdout.split()
    content = bytes(range(256)) * 4096 * 80
    assert (digest, int(size)) == ("sha256:" + hashlib.sha256(content).hexdigest(), 80 * MIB)
    assert int(grown_kib) < 56 * 1024
    assert digest in {entry.digest for entry in blobs.entries()}
    assert blobs.put_stream([content[: 9 * MIB]]) == blobs.put_stream([content[: 9 * MIB]])
    assert blobs.put_stream([b"sm", b"all"])[0] == blobs.put(b"small")


def test_reads_come_from_the_cache_which_never_answers_other_bytes(
    place: str, tmp_path: Path, proxy: Proxy
) -> None:
    blobs = BlobStore(place, tmp_path / "cache", cache_mib=1)
    digest = blobs.put(b"hello")
    for _ in range(3):
        assert blobs.get(digest) == b"hello"
    assert proxy.sent("GET") == 1
    [copy] = (tmp_path / "cache").iterdir()
    for damage in (b"hellO", b"", b"hello "):
        copy.write_bytes(damage)
        assert blobs.get(digest) == b"hello"
        assert copy.read_bytes() == b"hello"
    assert proxy.sent("GET") == 4
    BlobStore(place).delete([digest])
    assert blobs.get(digest) == b"hello"  # an engine that is cut off goes on serving


def test_a_registry_in_a_bucket_publishes_resolves_and_collects(
    home: Path, place: str, card: BaseCard, head: Head, lineage: Lineage
) -> None:
    registry = Registry(home, blobs=place)
    version = registry.publish(
        "local", "triage", card, [head(1.0)], lineage=lineage, promote="prod"
    )
    stray = registry.blobs.put(b"stray")
    assert {entry.digest for entry in registry.blobs.entries()} == {
        version.digest,
        version.manifest.parts[0].blob,
        stray,
    }
    done = registry.gc(grace_s=0)
    assert (done.blobs, done.garbage, done.swept, done.swept_size) == (3, 1, 1, 5)
    registry.close()
    again = Registry(home, blobs=place)
    assert again.resolve("local", "triage").manifest == version.manifest
    assert again.blobs.get(version.manifest.parts[0].blob) == head(1.0).data
    with pytest.raises(NotFound):
        again.blobs.get(stray)
    again.close()
    assert not (home / "blobs").exists()


def test_damage_in_a_bucket_is_seen_past_the_copy_and_quarantined_until_repaired(
    home: Path, place: str, objects: S3Store, card: BaseCard, head: Head, lineage: Lineage
) -> None:
    registry = Registry(home, blobs=place)

    def publish() -> Version:
        return registry.publish(
            "local", "triage", card, [head(1.0)], lineage=lineage, promote="prod"
        )

    version = publish()
    blob = version.manifest.parts[0].blob
    registry.blobs.get(blob)  # a copy lies on this machine's disk now
    objects.put(key(blob), b"other bytes")
    assert registry.inspect("local", "triage").quarantined == 1
    with pytest.raises(Quarantined, match=r"part 1 \(head\): the bytes of blob"):
        registry.resolve("local", "triage")
    assert publish() == version
    objects.delete(key(version.digest))
    assert registry.inspect("local", "triage").damage == (
        f"manifest: blob {version.digest} is not stored"
    )
    assert publish() == version
    assert registry.inspect("local", "triage").damage is None
    registry.close()


def test_a_list_that_is_stale_costs_nothing_that_is_named(
    home: Path, place: str, card: BaseCard, head: Head, lineage: Lineage, proxy: Proxy
) -> None:
    registry = Registry(home, blobs=place)
    part = head(1.0)
    early = registry.blobs.put(part.data)  # named by nobody yet
    stray = registry.blobs.put(b"stray")
    assert registry.gc(grace_s=3600).blobs == 2
    registry.blobs.delete([stray])
    version = registry.publish("local", "triage", card, [part], lineage=lineage)
    assert version.manifest.parts[0].blob == early
    before = proxy.sent("GET")
    proxy.faults.append(
        "stale"
    )  # shows what is gone, not what has come, and as garbage what is not
    registry.gc(grace_s=0)
    assert not proxy.faults and proxy.sent("GET") > before
    assert registry.blobs.get(early) == part.data
    assert {entry.digest for entry in registry.blobs.entries()} == {early, version.digest}
    registry.close()
