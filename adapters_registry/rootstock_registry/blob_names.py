"""How a digest becomes a place: the only way from text to a path or a key.

Refuses to know folders and buckets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rootstock_registry.errors import NotFound

FOLDER = "sha256"
_DIGEST = re.compile(r"sha256:([0-9a-f]{2})([0-9a-f]{62})")
_KEY = re.compile(r"sha256/([0-9a-f]{2})/([0-9a-f]{62})")


@dataclass(frozen=True)
class Entry:
    """A stored blob: `size` in bytes, `modified_at` in seconds since 1970."""

    digest: str
    size: int
    modified_at: float


def check_digest(digest: str) -> None:
    """Raises NotFound where this cannot be the name of any blob."""
    key_of(digest)


def key_of(digest: str) -> str:
    """`sha256/ab/cdef…`. Raises NotFound: nothing but hexadecimal digits gets through."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise NotFound(f"blob {digest[:80]!r} does not exist: it is not a sha256 digest")
    return f"{FOLDER}/{match[1]}/{match[2]}"


def digest_at(key: str) -> str | None:
    """The digest whose key this is; None for a file that is not a blob."""
    match = _KEY.fullmatch(key)
    return f"sha256:{match[1]}{match[2]}" if match else None
