"""Blobs: the name is the content's hash, and nothing else ever comes back under it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rootstock_registry.blobs import BlobStore
from rootstock_registry.errors import CorruptBlob, NotFound


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_bytes_come_back_under_their_sha256(blobs: BlobStore, tmp_path: Path) -> None:
    digest = blobs.put(b"hello")
    assert digest == "sha256:" + hashlib.sha256(b"hello").hexdigest()
    assert blobs.get(digest) == b"hello"
    [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert file == tmp_path / "blobs" / "sha256" / digest[7:9] / digest[9:]
    assert not os.stat(file).st_mode & 0o222


def test_putting_again_leaves_the_file_alone(blobs: BlobStore, tmp_path: Path) -> None:
    digest = blobs.put(b"hello")
    file = next(path for path in tmp_path.rglob("*") if path.is_file())
    before = file.stat().st_ino
    assert blobs.put(b"hello") == digest
    assert file.stat().st_ino == before


@pytest.mark.parametrize("content", [b"", b"hell", b"hellO", b"hello\0"])
def test_other_bytes_under_the_name_are_never_returned(
    blobs: BlobStore, tmp_path: Path, content: bytes
) -> None:
    digest = blobs.put(b"hello")
    file = next(path for path in tmp_path.rglob("*") if path.is_file())
    file.chmod(0o644)
    file.write_bytes(content)
    with pytest.raises(CorruptBlob, match=digest):
        blobs.get(digest)


def test_a_file_that_shrinks_while_it_is_read_is_refused_and_kills_nobody(
    blobs: BlobStore, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 16_384
    digest = blobs.put(data)
    file = next(path for path in tmp_path.rglob("*") if path.is_file())
    file.chmod(0o644)
    done = threading.Event()

    def shrink_and_restore() -> None:
        while not done.is_set():
            os.truncate(file, 100)
            file.write_bytes(data)

    with ThreadPoolExecutor(1) as pool:
        meddling = pool.submit(shrink_and_restore)
        refused = 0
        while refused < 20:
            try:
                assert blobs.get(digest) == data
            except CorruptBlob:
                refused += 1
        done.set()
        meddling.result()
    assert blobs.get(digest) == data


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:" + "0" * 64,
        "sha256:" + "0" * 63,
        "sha256:../../../../etc/passwd",
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 64 + "\n",
        "md5:" + "0" * 64,
        "/etc/passwd",
        "",
    ],
)
def test_what_is_no_stored_digest_is_not_found(blobs: BlobStore, digest: str) -> None:
    with pytest.raises(NotFound):
        blobs.get(digest)


def test_many_threads_may_put_the_same_bytes(blobs: BlobStore, tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        digests = set(pool.map(blobs.put, [b"x" * 100_000] * 64))
    assert len(digests) == 1
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_stream_is_stored_as_its_bytes_are(blobs: BlobStore, tmp_path: Path) -> None:
    chunks = [b"one ", b"", b"two ", b"three"]
    assert blobs.put_stream(chunks) == (blobs.put(b"".join(chunks)), 13)
    assert blobs.put_stream([]) == (blobs.put(b""), 0)
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 2

    def cut_off() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the sender has gone")

    with pytest.raises(RuntimeError, match="gone"):
        blobs.put_stream(cut_off())
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 2


STREAM = """
import resource, sys
from pathlib import Path
from rootstock_registry import BlobStore
blobs = BlobStore(Path(sys.argv[1]))
chunk = bytes(1024 * 1024)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
blobs.put_stream(chunk for _ in range(64))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_stream_takes_little_memory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STREAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 * 1024  # KiB


def test_a_link_in_the_place_of_a_blob_is_not_followed(blobs: BlobStore, tmp_path: Path) -> None:
    digest = blobs.put(b"hello")
    file = next(path for path in tmp_path.rglob("*") if path.is_file())
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptBlob, match="links are not followed"):
        blobs.get(digest)


def test_all_that_is_stored_is_listed_and_only_that(blobs: BlobStore, tmp_path: Path) -> None:
    digests = {blobs.put(bytes([number])): 1 for number in range(20)}
    (tmp_path / "blobs" / "sha256" / ".put-x").write_bytes(b"half")
    (tmp_path / "blobs" / "sha256" / "notes.txt").write_bytes(b"not ours")
    assert {entry.digest: entry.size for entry in blobs.entries()} == digests
    one = next(iter(digests))
    blobs.delete([one, one])
    assert blobs.missing(digests) == [one]


def test_blobs_and_manifests_need_no_database_and_no_torch() -> None:
    code = (
        "import sys, rootstock_registry.blobs, rootstock_registry.manifest;"
        "from rootstock_registry import Manifest, BlobStore;"
        "assert not {'sqlalchemy', 'sqlite3', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
