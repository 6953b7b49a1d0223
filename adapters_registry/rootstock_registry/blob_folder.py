"""Blobs in a local folder, in an order of steps that a power loss can interrupt anywhere.

Refuses to know what the bytes mean, and does not check what it reads: `blobs.py` does.

These steps are ours, not obstore's: its LocalStore writes, links and renames but syncs neither the
file nor its folder (seen by tracing 0.12.1; the Rust library has the option since 0.14, the Python
one does not offer it), so what it has acknowledged may be gone or empty after a power loss.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rootstock_registry.blob_names import FOLDER, Entry, digest_at, key_of
from rootstock_registry.disk_errors import explained
from rootstock_registry.errors import NotFound

TEMPORARY = ".put-"


class BlobFolder:
    """`root/sha256/ab/cdef…`. Safe for any number of threads and processes."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / FOLDER
        if not self._folder.is_dir():
            with self._in_words("written"):
                self._folder.mkdir(parents=True, exist_ok=True)
                for folder in (root, root.parent):
                    _sync_folder(folder)

    def put(self, digest: str, data: bytes) -> None:
        path = self._root / key_of(digest)
        with self._in_words("written"):
            path.parent.mkdir(exist_ok=True)
            # A damaged blob is written again: publishing the same bytes repairs it.
            if not _holds(path, data):
                with _temporary(path.parent) as (stream, temporary):
                    stream.write(data)
                    _finish(stream, temporary, path)
            self._sync(path)

    def put_stream(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        with self._in_words("written"), _temporary(self._folder) as (stream, temporary):
            seen, size = hashlib.sha256(), 0
            for chunk in chunks:
                stream.write(chunk)
                seen.update(chunk)
                size += len(chunk)
            digest = f"sha256:{seen.hexdigest()}"
            path = self._root / key_of(digest)
            path.parent.mkdir(exist_ok=True)
            _finish(stream, temporary, path)
            self._sync(path)
        return digest, size

    def read(self, digest: str) -> bytes:
        path = self._root / key_of(digest)
        with self._in_words("read"):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                raise NotFound(f"blob {digest} does not exist") from None
            with os.fdopen(descriptor, "rb") as stream:
                return stream.read()

    def missing(self, digests: Iterable[str]) -> list[str]:
        with self._in_words("read"):
            return [digest for digest in digests if not (self._root / key_of(digest)).is_file()]

    def entries(self) -> Iterator[Entry]:
        for file in self._files():
            digest = digest_at(Path(file.path).relative_to(self._root).as_posix())
            if digest is not None:
                with suppress(FileNotFoundError):
                    status = file.stat(follow_symlinks=False)
                    yield Entry(digest, status.st_size, status.st_mtime)

    def delete(self, digests: list[str]) -> None:
        # Not synced: what a power loss brings back is collected again.
        with self._in_words("written"):
            for digest in digests:
                (self._root / key_of(digest)).unlink(missing_ok=True)

    def tidy(self, older_than_s: float) -> int:
        removed = 0
        for file in self._files():
            if file.name.startswith(TEMPORARY):
                with self._in_words("written"), suppress(FileNotFoundError):
                    if file.stat().st_mtime < time.time() - older_than_s:
                        os.unlink(file.path)
                        removed += 1
        return removed

    def _files(self) -> Iterator[os.DirEntry[str]]:
        """What lies in the folder itself (streams being put) and in its 256 subfolders."""
        with self._in_words("read"):
            entries = list(os.scandir(self._folder))
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                yield entry
                continue
            with self._in_words("read"):
                files = list(os.scandir(entry.path))
            yield from files

    def _sync(self, path: Path) -> None:
        # Also when the file was already there: whoever put it may not have come this far yet.
        _sync_folder(path.parent)
        _sync_folder(self._folder)

    @contextmanager
    def _in_words(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise explained(error, what, self._root) from error


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


@contextmanager
def _temporary(folder: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file to write to, gone again where it was not renamed away."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=TEMPORARY)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream, temporary
    except BaseException:
        with suppress(OSError):  # the first error says more
            temporary.unlink()
        raise


def _finish(stream: BinaryIO, temporary: Path, path: Path) -> None:
    """Bytes first, then the name: no reader and no power loss ever finds half a file under it."""
    stream.flush()
    os.fchmod(stream.fileno(), 0o444)
    os.fsync(stream.fileno())
    os.replace(temporary, path)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
