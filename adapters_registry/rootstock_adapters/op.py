"""What a part's weights become before an engine attaches them, whatever their kind.

A kind's `op.prepare(spec, tensors)` returns a `Prepared`; the engine knows only what stands here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from rootstock_adapters.errors import ArtifactError

if TYPE_CHECKING:  # an engine computes without pydantic where somebody else has read the specs
    from rootstock_adapters.head.spec import Activation, HeadPooling
    from rootstock_adapters.spec import PartSpec


@dataclass(frozen=True)
class LowRank:
    """An update of one linear: `y += up · (down · x)`."""

    down: Tensor  # [R, in] fp32
    up: Tensor  # [out, R] fp32, scaling folded in


class Place(Protocol):
    """A module of the frozen base that changes attach to, as it is without any of them."""

    is_linear: bool
    transposed: bool  # whether the base stores its weight as [in, out]; linears only
    dtype: torch.dtype
    bias: Tensor | None
    norms: Tensor  # [out] L2 norm of each row of the weight; linears only
    scale: float  # what an embedding multiplies its rows with (Gemma), else 1
    parameters: dict[str, Tensor]  # the module's own, by name; modules that are no linears

    def product(self, x: Tensor) -> Tensor:
        """`W x` without the bias: [t, in] → [t, out]; linears only."""

    def shifted(self, differences: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        """The module with `differences` added to its parameters; modules that are no linears.

        A parameter without a difference is the base's own and takes no memory.
        """


class Change(ABC):
    """What a version does to the outputs of one module, for its own rows only."""

    # Whether other versions may act on the same rows; a rescaling of all that is there cannot.
    combinable: bool = True

    @property
    def nbytes(self) -> int:
        """Bytes that it keeps, beyond the base's own."""
        return 0

    def bind(self, place: Place) -> Change:
        """This change with all that it needs of `place` computed, off the engine's thread."""
        return self

    @abstractmethod
    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """The output that replaces `y` [t, …] of the module, whose input was `x` [t, …]."""


@dataclass(frozen=True)
class Readout:
    """A classifier over pooled hidden states, or each token's. H is the hidden layer's size."""

    pooling: HeadPooling
    normalize: bool
    labels: tuple[str, ...]
    weight: Tensor  # [labels, D] fp32; [labels, H] behind a hidden layer
    bias: Tensor  # [labels] fp32
    hidden_weight: Tensor | None = None  # [H, D] fp32
    hidden_bias: Tensor | None = None  # [H] fp32
    activation: Activation = "tanh"

    @property
    def per_token(self) -> bool:
        return self.pooling == "none"

    @property
    def nbytes(self) -> int:
        own = (self.weight, self.bias, self.hidden_weight, self.hidden_bias)
        return sum(tensor.nbytes for tensor in own if tensor is not None)


@dataclass(frozen=True)
class Virtual:
    """Learned tokens that stand before a request's own: they take positions, and have no ids.

    Either their input embeddings or their keys and values are given.
    """

    tokens: int  # P
    embeddings: Tensor | None = None  # [P, D] fp32, at the output of the input embedding
    keys_values: Tensor | None = None  # [P, layers·2·H·D] fp32, as the cache holds them

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.embeddings, self.keys_values) if t is not None)


@dataclass(frozen=True)
class Prepared:
    """Everything one version changes, by module path as seen from the backbone.

    `linears` run for all rows of a step together, ahead of `changes`, which run row by row and in
    the order of the parts.
    """

    linears: dict[str, LowRank] = field(default_factory=dict)
    changes: dict[str, tuple[Change, ...]] = field(default_factory=dict)
    readout: Readout | None = None
    virtual: Virtual | None = None

    def merge(self, other: Prepared) -> Prepared:
        """Two parts of one version together. Raises ValueError where both claim one place."""
        shared = self.linears.keys() & other.linears.keys()
        if shared or (self.readout and other.readout):
            raise ValueError(f"two parts change the same place: {sorted(shared) or 'the readout'}")
        if self.virtual and other.virtual:
            raise ValueError("two parts put virtual tokens before the prompt: keep one of them")
        paths = self.changes.keys() | other.changes.keys()
        return Prepared(
            self.linears | other.linears,
            {p: self.changes.get(p, ()) + other.changes.get(p, ()) for p in sorted(paths)},
            self.readout or other.readout,
            self.virtual or other.virtual,
        )

    def bind(self, place: Callable[[str], Place]) -> Prepared:
        """The same with every change bound to its place in a base."""
        bound = {
            path: tuple(change.bind(place(path)) for change in changes)
            for path, changes in self.changes.items()
        }
        return replace(self, changes=bound)

    @property
    def combinable(self) -> bool:
        """Whether this version may act on the same rows as others, and at another scale than 1."""
        return all(change.combinable for changes in self.changes.values() for change in changes)

    @property
    def nbytes(self) -> int:
        """Bytes of everything but `linears`, which live in slots."""
        total = sum(change.nbytes for changes in self.changes.values() for change in changes)
        total += self.virtual.nbytes if self.virtual else 0
        return total + (self.readout.nbytes if self.readout else 0)


def prepare(spec: PartSpec, tensors: dict[str, Tensor]) -> Prepared:
    """Hand `tensors` to the op of `spec`'s kind: the folder of that name in this package.

    Raises ArtifactError where the op leaves one of them unread: it would have no effect.
    """
    op = import_module(f"rootstock_adapters.{spec.kind}.op")
    read = _Read(tensors)
    prepared: Prepared = op.prepare(spec, read)
    if idle := sorted(tensors.keys() - read.names):
        raise ArtifactError(f"{spec.kind}: tensor {idle[0]} would have no effect")
    return prepared


class _Read(dict[str, Tensor]):
    """Tensors that remember which of them were asked for."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__(tensors)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        self.names.add(name)
        return super().__getitem__(name)
