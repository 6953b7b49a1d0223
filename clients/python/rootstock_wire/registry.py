"""The registry's objects as HTTP shows them: adapters, versions, aliases, bases, evaluations.

Objects and pages are shaped as OpenAI's are: `id`, `object`, seconds in `created_at`, and lists
with `first_id`, `last_id` and `has_more`. Refuses to know how they are stored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rootstock_wire.fields import Answer, Ask, at_most
from rootstock_wire.pages import Listed

MAX_PAGE = 100
DEFAULT_PAGE = 20
MAX_GATES = 16
MAX_METRICS = 256
# What PEFT saves an adapter in: its config and its weights. The fields of an upload, too.
PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")

Name = Annotated[str, Field(min_length=1, max_length=64)]
Gate = Annotated[str, Field(min_length=1, max_length=128)]


class RegisteredBase(Listed):
    """A base that versions can be made for; `id` is its name."""

    object: Literal["base"] = "base"
    fingerprint: str
    task: str
    model_type: str


class Adapter(Listed):
    """An adapter; `base` and `kinds` are those of its latest version. `id` is its name."""

    object: Literal["adapter"] = "adapter"
    base: str
    kinds: list[str]
    latest: int
    aliases: dict[str, int]


class AdapterVersion(Listed):
    """A version as a list shows it; `id` is its reference, `triage:4`, `size` its parts' bytes.

    `quarantined`: its stored bytes are damaged, as `quarantine_reason` says; nobody is answered.
    """

    object: Literal["adapter.version"] = "adapter.version"
    adapter: str
    number: int
    digest: str
    base: str
    kinds: list[str]
    size: int
    aliases: list[str]
    created_at: int
    yanked: bool
    yank_reason: str | None
    quarantined: bool
    quarantine_reason: str | None


class Evaluation(Answer):
    """Figures of one version, measured on one dataset after its training."""

    object: Literal["adapter.evaluation"] = "adapter.evaluation"
    dataset_digest: str
    metrics: dict[str, float]
    created_at: int


class AdapterVersionDetail(AdapterVersion):
    """A version with its `manifest` (a public format), and what came after it.

    `signed_by` are the ids of the keys whose signatures are stored; `rootstock verify` proves one.
    """

    manifest: dict[str, Any]
    evaluations: list[Evaluation]
    signed_by: list[str]


class Alias(Listed):
    """A movable name; `id` is `triage@prod`, `version` the number that it means now."""

    object: Literal["alias"] = "alias"
    adapter: str
    alias: str
    version: int


class AliasMove(Listed):
    """One move of an alias; `version` is null where it was taken away."""

    object: Literal["alias.move"] = "alias.move"
    version: int | None
    moved_at: int


class Deleted(Answer):
    """What OpenAI answers to a deletion."""

    id: str
    object: str
    deleted: Literal[True] = True


Number = Annotated[int, Field(ge=1, le=999_999_999)]
# The number that the alias means now, 0 where there is none: another one is a conflict.
Expected = Annotated[int, Field(ge=0, le=999_999_999)] | None


class MoveAlias(Ask):
    """Let an alias mean `version`, where every gate of `require` holds: `accuracy>=0.9`."""

    version: Number
    expected: Expected = None
    require: Annotated[tuple[Gate, ...], Field(max_length=MAX_GATES, strict=False)] = ()


class RollBackAlias(Ask):
    """Let an alias mean what it meant before. A retry with `expected` goes back only once."""

    expected: Expected = None


class YankVersion(Ask):
    """Take a version back with the `reason` that its callers will read."""

    reason: Annotated[str, Field(max_length=1000)] = ""


class AddEvaluation(Ask):
    dataset_digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    metrics: Annotated[dict[str, float], Field(min_length=1), at_most(MAX_METRICS)]
