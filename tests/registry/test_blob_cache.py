"""The cache of a bucket's blobs: bounded in bytes, least recently used first, shared safely."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rootstock_registry.blob_cache import BlobCache


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def test_the_longest_unused_goes_first_and_the_limit_holds(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path / "cache", 1000)
    for number in range(10):
        cache.put(digest(number), bytes([number]) * 100)
        os.utime(cache._path(digest(number)), (number, number))
    assert cache.get(digest(0)) == bytes(100)  # used now, so that 1 and 2 are the oldest
    cache.put(digest(10), b"x" * 150)
    assert size_of(tmp_path / "cache") == 950
    kept = [number for number in range(11) if cache.get(digest(number)) is not None]
    assert kept == [0, 3, 4, 5, 6, 7, 8, 9, 10]
    cache.put(digest(11), b"y" * 1001)
    assert cache.get(digest(11)) is None
    assert size_of(tmp_path / "cache") == 950


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    cache = BlobCache(tmp_path, 1000)
    (tmp_path / ".put-abandoned").write_bytes(b"z" * 900)
    cache.put(digest(1), b"a" * 500)
    assert [path.name for path in tmp_path.iterdir()] == [cache._path(digest(1)).name]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = BlobCache(tmp_path / "file" / "cache", 1000)
    cache.put(digest(1), b"a")
    assert cache.get(digest(1)) is None


HAMMER = """
import hashlib, random, sys
from pathlib import Path
from rootstock_registry.blob_cache import BlobCache
cache = BlobCache(Path(sys.argv[1]), 50_000)
chance = random.Random(int(sys.argv[2]))
for _ in range(400):
    number = chance.randrange(40)
    data = bytes([number]) * 3000
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    found = cache.get(digest)
    assert found in (None, data)
    if found is None:
        cache.put(digest, data)
"""


def test_processes_share_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HAMMER, str(tmp_path)]
    children = [subprocess.Popen([*command, str(seed)]) for seed in range(4)]
    cache = BlobCache(tmp_path, 50_000)
    largest = 0
    while any(child.poll() is None for child in children):
        with cache._alone():
            largest = max(largest, size_of(tmp_path))
    assert [child.returncode for child in children] == [0] * 4
    assert 45_000 <= size_of(tmp_path) <= 50_000
    assert largest <= 50_000
    for path in tmp_path.iterdir():
        assert path.name == f"sha256-{path.name[7:9]}-{path.name[10:]}"
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name[7:].replace("-", "")


@pytest.mark.parametrize("limit", [0, 99])
def test_a_limit_below_one_blob_keeps_nothing(tmp_path: Path, limit: int) -> None:
    cache = BlobCache(tmp_path / "cache", limit)
    cache.put(digest(1), b"a" * 100)
    assert cache.get(digest(1)) is None
