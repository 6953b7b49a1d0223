"""Where a home keeps its rows and blobs, remembered in the home: all programs that open it agree.

Refuses to know databases and buckets, and imports none.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rootstock_registry.errors import Conflict, RegistryError

FILE = "storage.json"
DEFAULT_CACHE_MIB = 1024


class Storage(BaseModel):
    """`home/storage.json`; without that file, SQLite and a folder, both in the home.

    `database_url` is a PostgreSQL URL, password and all; `blobs` is `s3://bucket/prefix`, of which
    at most `blob_cache_mib` MiB are kept in `home/blob-cache`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    database_url: str | None = None
    blobs: str | None = Field(None, pattern=r"^s3://")
    blob_cache_mib: int = Field(DEFAULT_CACHE_MIB, ge=0)


def read(home: Path) -> Storage:
    """Raises RegistryError where the file is there and does not say what it should."""
    file = home / FILE
    try:
        return Storage.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return Storage()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RegistryError(f"{file}: {field or 'the file'}: {first['msg']}") from None
    except OSError as error:
        raise RegistryError(f"{file} cannot be read: {error.strerror}") from error


def remember(home: Path, database_url: str | None, blobs: str | None, blob_cache_mib: int) -> None:
    """Keep these for whoever opens `home` later; None leaves what was remembered before."""
    before = read(home)
    now = Storage(
        database_url=database_url or before.database_url,
        blobs=blobs or before.blobs,
        blob_cache_mib=blob_cache_mib,
    )
    if now != before:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not for others' eyes: mkstemp's mode says so.
        descriptor, temporary = tempfile.mkstemp(dir=home, prefix=f".{FILE}-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(now.model_dump_json(indent=1, exclude_none=True) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, home / FILE)


def adopt(home: Path, given: Mapping[str, str]) -> None:
    """Keep what is `given` (fields of `Storage`) for a home that has nothing yet.

    Raises Conflict where the home keeps its rows or blobs elsewhere: neither place would have all.
    """
    before = read(home)
    other = [name for name, value in given.items() if getattr(before, name) != value]
    if not other:
        return
    if any((home / place).exists() for place in (FILE, "registry.db")):
        names = " and ".join(other)
        raise Conflict(
            f"{home} keeps its registry elsewhere than {names} in the environment says: take that "
            "away, choose another home, or give it to rootstock serve, which moves nothing"
        )
    remember(home, given.get("database_url"), given.get("blobs"), before.blob_cache_mib)
