"""What a request is asked of: a base, a version of it, and the versions that act beside it.

Decided once, when the request begins. Refuses to know transports, tokens and tenants.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.kinds import KINDS, parse_spec
from rootstock_adapters.prompt.spec import PromptSpec
from rootstock_adapters.spec import PartSpec
from rootstock_registry import Version

from rootstock_server.base.tokenizer import Tokenizer
from rootstock_server.engine.client import EngineClient
from rootstock_server.engine.request import Adapter


@dataclass(frozen=True)
class ServedBase:
    """A base as the front end uses it."""

    engine: EngineClient
    tokenizer: Tokenizer
    path: Path  # of its folder; the sidecar trains on it

    @property
    def card(self) -> BaseCard:
        return self.engine.card


@dataclass(frozen=True)
class Target:
    """What a model reference means for one request, with what acts `beside` it.

    Without a version it is the base alone. `beside` are versions with their scales.
    """

    model: str
    base: ServedBase
    version: Version | None = None
    beside: tuple[tuple[Version, float], ...] = ()

    @property
    def digest(self) -> str:
        """What `model` names: the version's digest, or the base's fingerprint."""
        return self.version.digest if self.version else self.base.card.fingerprint

    @property
    def digests(self) -> tuple[str, ...]:
        """Every version that makes the answer; the base's fingerprint where there is none."""
        return tuple(dict.fromkeys(v.digest for v in self.versions)) or (self.digest,)

    @property
    def made_by(self) -> str:
        """`digests` as an answer names them."""
        return ",".join(self.digests)

    @cached_property
    def adapters(self) -> list[Adapter]:
        """The versions that change the pass, in order; none for the base's own pass."""
        own = [(self.version, 1.0)] if self.version else []
        acting = [(v, scale) for v, scale in (*own, *self.beside) if changes_pass(v)]
        return [Adapter(version.digest, scale) for version, scale in acting]

    @property
    def has_head(self) -> bool:
        return "head" in self._kinds

    @property
    def labels_tokens(self) -> bool:
        """Whether its head gives every token a label of its own."""
        parts = self.version.manifest.parts if self.version else ()
        return any(part.kind == "head" and part.config["pooling"] == "none" for part in parts)

    @property
    def head_only(self) -> bool:
        return self._kinds == {"head"}

    @cached_property
    def prompt(self) -> PromptSpec | None:
        """What is said around the caller's text."""
        specs = [spec for version in self.versions for spec in specs_before_pass(version)]
        return next((spec for spec in specs if isinstance(spec, PromptSpec)), None)

    @cached_property
    def room(self) -> int:
        """How many of the base's positions a request may fill; virtual tokens take some."""
        specs = [spec for version in self.versions for spec in specs_before_pass(version)]
        return self.base.card.context_length - sum(spec.virtual_tokens for spec in specs)

    @property
    def versions(self) -> list[Version]:
        """Every version that makes the answer, the model's own first."""
        own = [self.version] if self.version else []
        return [*own, *(version for version, _ in self.beside)]

    @property
    def _kinds(self) -> set[str]:
        return {part.kind for part in self.version.manifest.parts} if self.version else set()


def changes_pass(version: Version) -> bool:
    """Whether the base computes otherwise because of `version`."""
    return any(KINDS[part.kind].changes_pass for part in version.manifest.parts)


def specs_before_pass(version: Version) -> list[PartSpec]:
    """The parts of `version` that say or take something before a pass begins."""
    parts = [part for part in version.manifest.parts if KINDS[part.kind].before_pass]
    return [parse_spec(part.kind, part.config) for part in parts]
