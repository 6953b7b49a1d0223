"""Copies of a bucket's blobs on this machine's disk, at most so many bytes, oldest use out first.

Refuses to be needed: whatever goes wrong here, the blob is fetched again. Checks no digest.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rootstock_registry.blob_names import key_of

_TEMPORARY = ".put-"


class BlobCache:
    """A flat folder of blobs, shared by all processes of this machine that name it.

    A file's modification time is its last use. Nothing is synced: a copy that a power loss has
    damaged does not match its digest, is dropped by who finds that, and fetched again.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes

    def get(self, digest: str) -> bytes | None:
        """The copy of `digest`, which may be damaged; None where there is none."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return data

    def put(self, digest: str, data: bytes) -> None:
        """Keep a copy, in place of any other of `digest`, and drop the longest unused."""
        if len(data) > self._limit:
            self._drop(self._path(digest))
            return
        with suppress(OSError):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(self._path(digest), data)

    def _write(self, path: Path, data: bytes) -> None:
        with self._alone():
            self._drop(path)
            self._make_room(len(data))
            descriptor, temporary = tempfile.mkstemp(dir=self._folder, prefix=_TEMPORARY)
            try:
                with os.fdopen(descriptor, "wb") as stream:
                    stream.write(data)
                os.replace(temporary, path)
            except BaseException:
                self._drop(Path(temporary))
                raise

    def _make_room(self, size: int) -> None:
        """Drop the longest unused until `size` more bytes fit. The caller is alone."""
        used: list[tuple[float, int, Path]] = []
        for entry in os.scandir(self._folder):
            if entry.name.startswith(_TEMPORARY):  # its writer was killed: nobody else is here
                self._drop(Path(entry.path))
                continue
            status = entry.stat(follow_symlinks=False)
            used.append((status.st_mtime, status.st_size, Path(entry.path)))
        total = sum(bytes_ for _, bytes_, _ in used) + size
        for _, bytes_, path in sorted(used):
            if total <= self._limit:
                return
            self._drop(path)
            total -= bytes_

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Otherwise two processes would both find room for what only one of them can keep."""
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _path(self, digest: str) -> Path:
        return self._folder / key_of(digest).replace("/", "-")

    def _drop(self, path: Path) -> None:
        with suppress(OSError):
            path.unlink()
