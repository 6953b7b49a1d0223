"""Bytes under the name of their own sha256, in a folder: written once, checked at every read.

Refuses to know what the bytes mean. Imports no database, so an engine process can use it alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

from rootstock_registry.errors import CorruptBlob, NotFound

_DIGEST = re.compile(r"sha256:([0-9a-f]{2})([0-9a-f]{62})")


class BlobStore:
    """`root/sha256/ab/cdef…`. Safe for any number of threads and processes."""

    def __init__(self, root: Path) -> None:
        self._folder = root / "sha256"
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            for folder in (root, root.parent):
                _sync_folder(folder)

    def put(self, data: bytes) -> str:
        """Store `data`; return its digest. When this returns, the bytes survive a power loss."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        path = self._path(digest)
        path.parent.mkdir(exist_ok=True)
        # A damaged blob is written again: publishing the same bytes repairs it.
        if not _holds(path, data):
            _write(path, data)
        # Also when the file was already there: whoever put it may not have come this far yet.
        _sync_folder(path.parent)
        _sync_folder(self._folder)
        return digest

    def get(self, digest: str) -> bytes:
        """The bytes of `digest`, hashed again. Raises NotFound; CorruptBlob where they differ."""
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"blob {digest} does not exist") from None
        except OSError as error:
            raise CorruptBlob(f"blob {digest} cannot be read: {error.strerror}") from error
        if f"sha256:{hashlib.sha256(data).hexdigest()}" != digest:
            raise CorruptBlob(
                f"blob {digest} is damaged: its bytes no longer match its digest. "
                "Publish or import the same adapter again to repair it"
            )
        return data

    def _path(self, digest: str) -> Path:
        # The only way from text to a path: nothing but hexadecimal digits gets through.
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise NotFound(f"blob {digest[:80]!r} does not exist: it is not a sha256 digest")
        return self._folder / match[1] / match[2]


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except OSError:
        return False


def _write(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".put-")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), 0o444)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
