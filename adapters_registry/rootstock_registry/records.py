"""What the registry hands out: versions, summaries, keys' owners, routes and jobs. All frozen.

Refuses to know how they are stored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar, get_args

from rootstock_adapters.spec import PartSpec

from rootstock_registry.manifest import Manifest

Role = Literal["admin", "publisher", "caller"]
KeyState = Literal["active", "expired", "revoked"]
T = TypeVar("T")
ROLES: tuple[str, ...] = get_args(Role)
JobState = Literal["queued", "running", "paused", "cancelled", "succeeded", "failed"]

ChangeKind = Literal["alias", "version", "route", "base", "tenant", "key"]


@dataclass(frozen=True)
class NewPart:
    """A part to be published: its config and its safetensors bytes."""

    spec: PartSpec
    data: bytes


@dataclass(frozen=True)
class Version:
    """`digest` is the identity; `tenant`, `name` and `number` are one name of it."""

    tenant: str
    name: str
    number: int
    digest: str
    base_fingerprint: str
    manifest: Manifest
    aliases: tuple[str, ...]
    created_at: datetime
    yanked_at: datetime | None = None
    yank_reason: str | None = None
    quarantined_at: datetime | None = None
    quarantine_reason: str | None = None

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.number}"


@dataclass(frozen=True)
class AdapterSummary:
    """One adapter as a list shows it; `base` and `kinds` are its latest version's.

    The latest is the highest number that is not yanked, or the highest where all are.
    """

    name: str
    base: str
    kinds: tuple[str, ...]
    latest: int
    aliases: Mapping[str, int]


@dataclass(frozen=True)
class VersionSummary:
    """One version as a list shows it; `size` is that of its parts, in bytes."""

    name: str
    number: int
    digest: str
    base: str
    kinds: tuple[str, ...]
    size: int
    aliases: tuple[str, ...]
    created_at: datetime
    yanked_at: datetime | None
    yank_reason: str | None
    quarantined_at: datetime | None
    quarantine_reason: str | None

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.number}"


@dataclass(frozen=True)
class Page(Generic[T]):
    """A part of a list, in OpenAI's manner: with `has_more`, ask for what comes after its last."""

    data: tuple[T, ...]
    has_more: bool


@dataclass(frozen=True)
class AliasSummary:
    """What an alias means now: `adapter@alias` is `adapter:number`."""

    adapter: str
    alias: str
    number: int

    @property
    def ref(self) -> str:
        return f"{self.adapter}@{self.alias}"


@dataclass(frozen=True)
class AliasMove:
    """`alias` began to mean `number` then; None where it was deleted."""

    alias: str
    number: int | None
    moved_at: datetime


@dataclass(frozen=True)
class Change:
    """`seq` grows in the order in which changes became visible. `name` as its `kind` writes it:

    `triage@prod` (alias), `triage:3` (version), else the name; bases belong to no tenant.
    """

    seq: int
    at: datetime
    tenant: str | None
    kind: ChangeKind
    name: str


@dataclass(frozen=True)
class KeyOwner:
    tenant: str
    role: Role
    key_id: str


@dataclass(frozen=True)
class ApiKey:
    """A key as a list shows it, which is never its secret. It ends for good when it is revoked, or
    at `expires_at`, by the clock of the machine that is asked; without one it does not expire."""

    id: str
    tenant: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @property
    def state(self) -> KeyState:
        if self.revoked_at is not None:
            return "revoked"
        over = self.expires_at is not None and self.expires_at.timestamp() <= time.time()
        return "expired" if over else "active"

    @property
    def owner(self) -> KeyOwner:
        return KeyOwner(self.tenant, self.role, self.id)


@dataclass(frozen=True)
class Route:
    """`task` of `tenant` goes to `targets` by weight, to `fallback` where none can answer."""

    tenant: str
    task: str
    targets: Mapping[str, int]
    fallback: str | None


@dataclass(frozen=True)
class Job:
    """One training run. `fence` grows with every claim: only its latest holder may write."""

    id: str
    tenant: str
    spec: dict[str, Any]
    state: JobState
    requested: Literal["pause", "cancel"] | None  # what its worker has not done yet
    priority: int
    idempotency_key: str | None
    owner: str | None
    lease_expires_at: datetime | None
    fence: int
    progress: dict[str, Any]
    error: str | None
    version_digest: str | None
    created_at: datetime
    finished_at: datetime | None
