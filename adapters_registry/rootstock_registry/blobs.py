"""Bytes under the name of their own sha256, in a folder or a bucket: written once, always checked.

Refuses to know what the bytes mean. Imports no database, so an engine process can use it alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rootstock_registry import storage
from rootstock_registry.blob_cache import BlobCache
from rootstock_registry.blob_folder import BlobFolder
from rootstock_registry.blob_names import Entry, check_digest
from rootstock_registry.errors import CorruptBlob
from rootstock_registry.storage import DEFAULT_CACHE_MIB

if TYPE_CHECKING:
    from rootstock_registry.blob_bucket import BlobBucket

# Wrong bytes from a network are usually right the second time.
_READS_OF_A_BUCKET = 2


class Shelf(Protocol):
    """Where blobs are kept. Digests given to it are well-formed; it does not check what it reads.

    Every method raises Unavailable, or StorageFull where it writes.
    """

    def put(self, digest: str, data: bytes) -> None:
        """Store `data` durably; where `digest` holds other bytes, these take their place."""

    def put_stream(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """Digest and size of all `chunks`, stored durably. Holds one chunk in memory."""

    def read(self, digest: str) -> bytes:
        """All bytes, in this process's own memory. Raises NotFound."""

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those that are not stored."""

    def entries(self) -> Iterator[Entry]:
        """All that is stored, in any order; what comes and goes meanwhile may be missing."""

    def delete(self, digests: list[str]) -> None:
        """What is already gone is no error."""

    def tidy(self, older_than_s: float) -> int:
        """Remove what interrupted puts have left behind; how many files that were."""


class BlobStore:
    """`sha256/ab/cdef…` under a folder or `s3://bucket/prefix`. Safe for threads and processes.

    What is read from a bucket is kept in `cache_folder`, at most `cache_mib` MiB, where one is
    given. A bucket's endpoint, region and keys come from the usual `AWS_…` variables.
    """

    def __init__(
        self,
        place: Path | str,
        cache_folder: Path | None = None,
        cache_mib: int = DEFAULT_CACHE_MIB,
    ) -> None:
        self._shelf: Shelf
        self._cache: BlobCache | None = None
        self._reads = 1
        if isinstance(place, str) and "://" in place:
            self._shelf = _bucket(place)
            self._reads = _READS_OF_A_BUCKET
            if cache_folder is not None:
                self._cache = BlobCache(cache_folder, cache_mib * 1024 * 1024)
        else:
            self._shelf = BlobFolder(Path(place))

    @classmethod
    def of(cls, home: Path, place: str | None = None) -> BlobStore:
        """Those of `home`: at `place`, or where `home` remembers, or in its folder `blobs`."""
        kept = storage.read(home)
        return cls(place or kept.blobs or home / "blobs", home / "blob-cache", kept.blob_cache_mib)

    def put(self, data: bytes) -> str:
        """Store `data`; return its digest. When this returns, the bytes survive a power loss.

        Raises StorageFull, Unavailable.
        """
        digest = digest_of(data)
        self._shelf.put(digest, data)
        return digest

    def put_stream(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        """As `put`, for bytes too many to hold at once: `(digest, size)`."""
        return self._shelf.put_stream(chunks)

    def get(self, digest: str) -> bytes:
        """The bytes of `digest`, hashed again; these bytes, not the file, are what to parse.

        Raises NotFound; CorruptBlob where they differ; Unavailable.
        """
        check_digest(digest)
        if self._cache is None:
            return self.get_stored(digest)
        cached = self._cache.get(digest)
        if cached is not None and digest_of(cached) == digest:
            return cached
        data = self.get_stored(digest)
        self._cache.put(digest, data)
        return data

    def get_stored(self, digest: str) -> bytes:
        """As `get`, but never a copy: what is kept for everybody."""
        check_digest(digest)
        for _ in range(self._reads):
            data = self._shelf.read(digest)
            if digest_of(data) == digest:
                return data
        raise CorruptBlob(
            f"blob {digest} is damaged: its bytes no longer match its digest. "
            "Publish or import the same adapter again to repair it"
        )

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of `digests` that are not stored. Says nothing about whether the rest is sound."""
        return self._shelf.missing(digests)

    def entries(self) -> Iterator[Entry]:
        """Everything stored, in any order. Raises Unavailable."""
        return self._shelf.entries()

    def delete(self, digests: list[str]) -> None:
        """For garbage collection alone, which knows what nobody needs."""
        self._shelf.delete(digests)

    def tidy(self, older_than_s: float) -> int:
        """Remove what puts that were killed more than `older_than_s` ago have left; how many."""
        return self._shelf.tidy(older_than_s)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _bucket(url: str) -> BlobBucket:
    # Only those who have a bucket wait for its library to load.
    from rootstock_registry.blob_bucket import BlobBucket

    return BlobBucket(url)
