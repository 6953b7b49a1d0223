"""A home remembers where its rows and blobs are, and says what is wrong with what it remembers."""

from __future__ import annotations

from pathlib import Path

import pytest
from rootstock_registry import BlobStore, Registry, storage
from rootstock_registry.errors import Conflict, RegistryError
from rootstock_registry.storage import Storage


def test_without_the_file_everything_is_in_the_home(home: Path) -> None:
    assert storage.read(home) == Storage()
    storage.remember(home, None, None, storage.DEFAULT_CACHE_MIB)
    assert not home.exists()  # nothing to remember
    registry = Registry(home)
    registry.blobs.put(b"hello")
    registry.close()
    assert (home / "registry.db").is_file()
    assert (home / "blobs").is_dir()


def test_what_is_remembered_stays_until_it_is_told_anew(home: Path) -> None:
    storage.remember(home, "postgresql://me:secret@host/db", None, 5)
    storage.remember(home, None, "s3://shelf/here", 7)
    kept = storage.read(home)
    assert kept.database_url == "postgresql://me:secret@host/db"
    assert (kept.blobs, kept.blob_cache_mib) == ("s3://shelf/here", 7)
    assert (home / "storage.json").stat().st_mode & 0o077 == 0
    assert [path.name for path in home.iterdir()] == ["storage.json"]


def test_every_program_that_opens_the_home_finds_the_same_blobs(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    storage.remember(home, None, "s3://shelf/here", 7)
    registry = Registry(home)
    for blobs in (registry.blobs, BlobStore.of(home)):
        assert blobs._shelf._url == "s3://shelf/here"  # type: ignore[attr-defined]
        assert blobs._cache is not None
        assert blobs._cache._limit == 7 * 1024 * 1024
        assert blobs._cache._folder == home / "blob-cache"
    registry.close()


def test_an_empty_home_adopts_what_is_given_and_another_is_never_split(tmp_path: Path) -> None:
    url = "postgresql://me:hush@host/db"
    new, used, plain = (tmp_path / name for name in ("new", "used", "plain"))
    for _ in range(2):
        storage.adopt(new, {"database_url": url, "blobs": "s3://shelf/x"})
        assert storage.read(new) == Storage(database_url=url, blobs="s3://shelf/x")
    storage.adopt(new, {"database_url": url})
    storage.adopt(plain, {})
    assert not plain.exists()
    storage.remember(used, "postgresql://other/db", None, 5)
    Registry(plain).close()
    for home in (used, plain):
        with pytest.raises(Conflict, match="database_url in the environment") as caught:
            storage.adopt(home, {"database_url": url})
        assert "hush" not in caught.value.message
    assert storage.read(plain) == Storage()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"storage\.json: the file: Invalid JSON"),
        ('{"blob": "s3://x"}', r"storage\.json: blob: Extra inputs"),
        ('{"blobs": "/tmp/x"}', r"storage\.json: blobs: String should match pattern '\^s3://'"),
        ('{"blob_cache_mib": -1}', r"storage\.json: blob_cache_mib: Input should be greater"),
    ],
)
def test_a_file_that_cannot_be_understood_is_an_error_that_names_it(
    home: Path, content: str, message: str
) -> None:
    home.mkdir()
    (home / "storage.json").write_text(content)
    with pytest.raises(RegistryError, match=message):
        Registry(home)
