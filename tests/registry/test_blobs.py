"""Blobs: the name is the content's hash, and nothing else ever comes back under it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
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


def test_a_full_disk_leaves_nothing_behind(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    # A real full disk needs a mount, which a test may not make.
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        blobs.put(b"hello")
    monkeypatch.undo()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with pytest.raises(NotFound):
        blobs.get("sha256:" + hashlib.sha256(b"hello").hexdigest())


def test_blobs_and_manifests_need_no_database_and_no_torch() -> None:
    code = (
        "import sys, rootstock_registry.blobs, rootstock_registry.manifest;"
        "from rootstock_registry import Manifest, BlobStore;"
        "assert not {'sqlalchemy', 'sqlite3', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
