"""A package's manifest, and its files read into memory only if they are what it promises.

Refuses to know what is inside the files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = "rootstock.package/1"
TARGET = "onnx"
MODEL, TOKENIZER, PARITY = "model.onnx", "tokenizer.json", "parity.json"


class PackageError(Exception):
    """The folder is not a package that can be run; the message says why and what to do."""


@dataclass(frozen=True)
class Head:
    """One classifier of the package. `ref` and `digest` name the version it was made from."""

    name: str
    ref: str
    digest: str
    labels: tuple[str, ...]
    output: str  # the graph's name for its logits


@dataclass(frozen=True)
class File:
    sha256: str
    size: int  # bytes


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says. `max_length` is in tokens."""

    folder: Path
    base_name: str
    base_fingerprint: str
    heads: tuple[Head, ...]
    max_length: int
    files: dict[str, File]

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises PackageError where the folder has no manifest, or one of another format."""
        file = folder / "manifest.json"
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise PackageError(
                f"{folder} is not a package: manifest.json: {error.strerror}; "
                "write one with `rootstock export`"
            ) from error
        except ValueError as error:
            raise PackageError(f"{file} is damaged: {error}; export the package again") from error
        found = (raw.get("format"), raw.get("target")) if isinstance(raw, dict) else None
        if found != (FORMAT, TARGET):
            raise PackageError(f"{file} is not of format {FORMAT}, target {TARGET}: {found}")
        try:
            return cls._parse(folder, raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PackageError(f"{file} is damaged: {error!r}; export the package again") from error

    @classmethod
    def _parse(cls, folder: Path, raw: dict[str, Any]) -> Manifest:
        heads = tuple(
            Head(each["name"], each["ref"], each["digest"], tuple(each["labels"]), each["output"])
            for each in raw["heads"]
        )
        files = {name: File(each["sha256"], each["size"]) for name, each in raw["files"].items()}
        for name in (MODEL, TOKENIZER, *files):
            # A name with a folder in it could lead out of the package.
            if name not in files or Path(name).name != name:
                raise ValueError(f"files: {name}")
        base = raw["base"]
        return cls(folder, base["name"], base["fingerprint"], heads, int(raw["max_length"]), files)

    def load(self, name: str) -> bytes:
        """The bytes of a listed file, hashed as read: what is checked is what is run.

        Raises PackageError where they are not the bytes that were exported.
        """
        try:
            data = (self.folder / name).read_bytes()
        except OSError as error:
            raise PackageError(f"{self.folder / name}: {error.strerror}; copy it again") from error
        if hashlib.sha256(data).hexdigest() != self.files[name].sha256:
            raise PackageError(
                f"{self.folder / name} is not the file that was exported "
                f"({len(data)} bytes, the manifest says {self.files[name].size}): "
                "it was changed or cut short; copy the package again"
            )
        return data
