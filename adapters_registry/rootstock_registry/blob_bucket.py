"""Blobs in an S3-compatible bucket, through obstore: created once, every error in words.

Refuses to know what the bytes mean, and does not check what it reads: `blobs.py` does. Endpoint,
region and keys are those of the `AWS_…` environment variables, which obstore reads by itself.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from rootstock_registry.blob_names import FOLDER, Entry, digest_at, key_of
from rootstock_registry.disk_errors import explained
from rootstock_registry.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

# Refused connections, 5xx and SlowDown are tried again, with jitter: four times, under a minute.
_RETRY: RetryConfig = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=3),
        "base": 2,
    },
}
# A deletion that were tried again might arrive long after the check that allowed it.
_NO_RETRY: RetryConfig = {"max_retries": 0, "retry_timeout": timedelta(seconds=1)}
# An endpoint that the operator wrote with http:// is meant so; AWS's own are always https.
_CLIENT: ClientConfig = {
    "allow_http": True,
    "connect_timeout": "5s",
    "read_timeout": "20s",
    "timeout": "15min",
}
_DELETE_CLIENT: ClientConfig = {"allow_http": True, "connect_timeout": "5s", "timeout": "10s"}

# Below this, one request that creates the object or finds it there; above, parts of this size.
_CHUNK = 8 * 1024 * 1024
_PARTS_AT_ONCE = 2
# Somebody else's put that is still under way answers "exists" before the object can be read.
_CREATE_TRIES = 4


class BlobBucket:
    """`s3://bucket/prefix/sha256/ab/cdef…`. Safe for any number of threads and processes."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
            raise Unavailable(f"blobs: {url[:200]!r} is neither a folder nor s3://BUCKET/PREFIX")
        self._url = url
        self._bucket = parts.netloc
        prefix = parts.path.strip("/") or None
        with self._in_words("opened"):
            self._store, self._deleting = (
                S3Store(parts.netloc, prefix=prefix, client_options=client, retry_config=retry)
                for client, retry in ((_CLIENT, _RETRY), (_DELETE_CLIENT, _NO_RETRY))
            )

    def put(self, digest: str, data: bytes) -> None:
        for _ in range(_CREATE_TRIES):
            with self._in_words("written"):
                try:
                    obstore.put(self._store, key_of(digest), data, mode="create")
                    return
                except AlreadyExistsError:
                    pass
            try:
                if self.read(digest) == data:
                    return
            except NotFound:
                continue
            # Damaged: publishing the same bytes repairs it.
            with self._in_words("written"):
                obstore.put(self._store, key_of(digest), data, use_multipart=False)
                return
        raise Unavailable(f"blob {digest} in {self._url} comes and goes: try again")

    def put_stream(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        # The name is known only at the end, so the bytes wait on this machine's disk.
        with tempfile.TemporaryFile() as spool:
            try:
                digest, size = _spool(chunks, spool)
            except OSError as error:
                raise explained(error, "written", tempfile.gettempdir()) from error
            spool.seek(0)
            if size <= _CHUNK:
                self.put(digest, spool.read())
            elif self._hash(digest) != digest:
                # S3 cannot create once in parts. Writing the same bytes twice does no harm:
                # the key is their hash, and an object changes only as a whole.
                with self._in_words("written"):
                    obstore.put(
                        self._store,
                        key_of(digest),
                        spool,
                        chunk_size=_CHUNK,
                        max_concurrency=_PARTS_AT_ONCE,
                    )
        return digest, size

    def read(self, digest: str) -> bytes:
        with self._in_words("read"):
            try:
                return bytes(obstore.get(self._store, key_of(digest)).bytes())
            except FileNotFoundError as error:
                self._check_bucket(error)
                raise NotFound(f"blob {digest} does not exist") from None

    def missing(self, digests: Iterable[str]) -> list[str]:
        absent = []
        for digest in digests:
            with self._in_words("read"):
                try:
                    obstore.head(self._store, key_of(digest))
                except FileNotFoundError:
                    absent.append(digest)
        return absent

    def entries(self) -> Iterator[Entry]:
        with self._in_words("read"):
            for page in obstore.list(self._store, f"{FOLDER}/", chunk_size=1000):
                for item in page:
                    digest = digest_at(item["path"])
                    if digest is not None:
                        yield Entry(digest, item["size"], item["last_modified"].timestamp())

    def delete(self, digests: list[str]) -> None:
        with self._in_words("written"):
            obstore.delete(self._deleting, [key_of(digest) for digest in digests])

    def tidy(self, older_than_s: float) -> int:
        # Parts of an upload that was cut off are no objects: a lifecycle rule of the bucket
        # (AbortIncompleteMultipartUpload) is what ends them.
        return 0

    def _hash(self, digest: str) -> str | None:
        """What the stored bytes of `digest` really hash to, read in pieces; None without them."""
        seen = hashlib.sha256()
        with self._in_words("read"):
            try:
                for piece in obstore.get(self._store, key_of(digest)).stream(_CHUNK):
                    seen.update(piece)
            except FileNotFoundError:
                return None
        return f"sha256:{seen.hexdigest()}"

    def _check_bucket(self, error: Exception) -> None:
        if "NoSuchBucket" in str(error):
            raise Unavailable(
                f"blobs: bucket {self._bucket!r} does not exist; make it, or correct {self._url!r}"
            ) from error

    @contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            self._check_bucket(error)
            raise
        except UnauthenticatedError as error:
            raise Unavailable(
                f"blobs in {self._url} cannot be {what}: the keys are not accepted; "
                "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except PermissionDeniedError as error:
            raise Unavailable(
                f"blobs in {self._url} cannot be {what}: these keys have no permission for it; "
                "they need GetObject, PutObject, DeleteObject and ListBucket"
            ) from error
        except (BaseError, OSError, ValueError) as error:
            self._check_bucket(error)
            raise Unavailable(
                f"blobs in {self._url} cannot be {what} now: {_first_line(error)}"
            ) from error


def _spool(chunks: Iterable[bytes], spool: IO[bytes]) -> tuple[str, int]:
    seen, size = hashlib.sha256(), 0
    for chunk in chunks:
        spool.write(chunk)
        seen.update(chunk)
        size += len(chunk)
    return f"sha256:{seen.hexdigest()}", size


def _first_line(error: Exception) -> str:
    """obstore's message ends in a dump of its own objects, which holds the request's address."""
    return str(error).partition("\n")[0][:300]
