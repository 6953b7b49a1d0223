"""What a disk's errors mean to whoever runs the program.

Refuses to know what was being read or written.
"""

from __future__ import annotations

import errno

from rootstock_registry.errors import CorruptBlob, RegistryError, StorageFull, Unavailable

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PERMISSION = "this user has no permission; give it to the one that runs Rootstock"
_WHY = {
    errno.EROFS: "its file system is read-only; mount it writable",
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.EIO: "the disk reports an input/output error; look at the system's log",
    errno.ENOENT: "a folder is gone; was it deleted while the program ran?",
}


def explained(error: OSError, what: str, place: object) -> RegistryError:
    """`error` for a person: StorageFull, CorruptBlob for a link, else Unavailable.

    `what` is the participle of what was tried: read, written, opened.
    """
    if error.errno in _FULL:
        return StorageFull(f"no room is left in {place}: free some, then try again")
    if error.errno == errno.ELOOP:
        return CorruptBlob(f"a blob in {place} is a link, not a file: links are not followed")
    why = _WHY.get(error.errno or 0, error.strerror or str(error))
    return Unavailable(f"{place} cannot be {what}: {why}")
