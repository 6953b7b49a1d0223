"""What a version says about itself: its parts, its base, where it came from, how good it was.

Refuses to know names, tenants and time: a manifest's digest depends on content alone.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rootstock_registry.errors import CorruptBlob

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BaseRef(_Frozen):
    name: str
    fingerprint: str


class TensorInfo(_Frozen):
    dtype: str
    shape: tuple[int, ...]


class Part(_Frozen):
    """One mechanism: `config` is the kind's own, `blob` holds its `size` safetensors bytes."""

    kind: str
    config: dict[str, Any]
    blob: Digest
    size: int
    tensors: dict[str, TensorInfo]


class Lineage(_Frozen):
    """Where a version came from. `source` says so in words when no job made it."""

    method: str
    dataset_digest: Digest | None = None
    job: str | None = None
    parent: Digest | None = None
    seed: int | None = None
    libraries: dict[str, str] = {}
    source: str | None = None


class Manifest(_Frozen):
    format: Literal["rootstock.version/1"] = "rootstock.version/1"
    base: BaseRef
    parts: tuple[Part, ...] = Field(min_length=1)
    lineage: Lineage
    evaluation: dict[str, float] = {}

    def canonical(self) -> bytes:
        """The bytes whose sha256 is the version's digest: JSON, sorted keys, no spaces, UTF-8.

        Raises ValueError where a value has no JSON form (an infinite number, half a surrogate).
        """
        text = json.dumps(
            self.model_dump(mode="json"),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
        return text.encode()

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.canonical()).hexdigest()}"

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """The manifest in `data`. Raises CorruptBlob where these bytes are not a manifest."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            raise CorruptBlob("the stored manifest cannot be read by this program") from error
