"""IA3's factors as changes of linears' outputs.

Refuses to know where they will be resident.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rootstock_adapters.ia3.spec import Ia3Spec
from rootstock_adapters.op import Change, Place, Prepared
from rootstock_adapters.replaced.op import replaced


@dataclass(frozen=True, eq=False)
class Scaled(Change):
    """`y ∘ l`: all that the linear gives, its bias included."""

    factors: Tensor  # [out] fp32

    combinable = False

    @property
    def nbytes(self) -> int:
        return self.factors.nbytes

    def bind(self, place: Place) -> Change:
        return Scaled(self.factors.to(place.norms.device))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        return (y * self.factors).to(y.dtype)


@dataclass(frozen=True, eq=False)
class ScaledInput(Change):
    """`y + W ((l - 1) ∘ x)`, which is `W (l ∘ x) + b` where y is `W x + b`."""

    excess: Tensor  # [in] fp32, l - 1
    place: Place | None = None

    combinable = False

    @property
    def nbytes(self) -> int:
        return self.excess.nbytes

    def bind(self, place: Place) -> Change:
        return ScaledInput(self.excess.to(place.norms.device), place)

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        if self.place is None:
            raise RuntimeError("factors on an input act only once they are bound to a linear")
        return y + self.place.product(x * self.excess)


def prepare(spec: Ia3Spec, tensors: dict[str, Tensor]) -> Prepared:
    """`tensors` as the spec names them, any float dtype."""
    changes: dict[str, tuple[Change, ...]] = {
        path: (change,) for path, change in replaced(spec.modules_to_save, (), tensors).items()
    }
    for module in spec.target_modules:
        factors = tensors[f"{module}.ia3_l"].float().flatten()
        inward = module in spec.feedforward_modules
        changes[module] = (ScaledInput(factors - 1) if inward else Scaled(factors),)
    return Prepared(changes=changes)
