"""What a part's weights become before an engine attaches them, whatever their kind.

A kind's `op.prepare(spec, tensors)` returns a `Prepared`; the engine knows only what stands here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module

from torch import Tensor

from rootstock_adapters.base_card import Pooling
from rootstock_adapters.spec import PartSpec


@dataclass(frozen=True)
class LowRank:
    """An update of one linear: `y += up · (down · x)`."""

    down: Tensor  # [R, in] fp32
    up: Tensor  # [out, R] fp32, scaling folded in


@dataclass(frozen=True)
class Readout:
    """A classifier over pooled hidden states."""

    pooling: Pooling
    normalize: bool
    labels: tuple[str, ...]
    weight: Tensor  # [labels, D] fp32
    bias: Tensor  # [labels] fp32


@dataclass(frozen=True)
class Prepared:
    """Everything one version changes: updates by module path, and what it reads out."""

    linears: dict[str, LowRank] = field(default_factory=dict)
    readout: Readout | None = None

    def merge(self, other: Prepared) -> Prepared:
        """Two parts of one version together. Raises ValueError where both claim one place."""
        shared = self.linears.keys() & other.linears.keys()
        if shared or (self.readout and other.readout):
            raise ValueError(f"two parts change the same place: {sorted(shared) or 'the readout'}")
        return Prepared(self.linears | other.linears, self.readout or other.readout)

    @property
    def nbytes(self) -> int:
        tensors = [t for pair in self.linears.values() for t in (pair.down, pair.up)]
        if self.readout:
            tensors += [self.readout.weight, self.readout.bias]
        return sum(tensor.nbytes for tensor in tensors)


def prepare(spec: PartSpec, tensors: dict[str, Tensor]) -> Prepared:
    """Hand `tensors` to the op of `spec`'s kind: the folder of that name in this package."""
    op = import_module(f"rootstock_adapters.{spec.kind}.op")
    prepared: Prepared = op.prepare(spec, tensors)
    return prepared
