"""The bytes of a file that somebody offered: a plain file, read once, and never past a limit.

Refuses to know what the bytes mean.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from rootstock_registry.errors import InvalidArtifact


def read(file: Path, limit: int) -> bytes:
    """At most `limit + 1` bytes of `file`: the one more tells the caller that there are more.

    Raises InvalidArtifact where it is absent, or anything but a plain file: a link may lead out of
    the folder, and a pipe may never end.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(file, flags)
    except FileNotFoundError:
        raise InvalidArtifact(f"{file.parent} has no {file.name}") from None
    except (OSError, ValueError) as error:
        raise InvalidArtifact(f"{file.name} {_why(error)}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidArtifact(f"{file.name} is no plain file: write its content into one")
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read(limit + 1)


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.errno == errno.ELOOP:
        return "is a symbolic link, which is not followed: copy the folder with cp -RL"
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return f"cannot be read: {reason}"
