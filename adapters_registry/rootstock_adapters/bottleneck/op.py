"""A bottleneck layer as a change of the linear that ends a sublayer, or of the norm behind it.

Refuses to know which architecture names that linear how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from rootstock_adapters.activations import ACTIVATIONS
from rootstock_adapters.bottleneck.spec import BottleneckSpec
from rootstock_adapters.op import Change, Place, Prepared


@dataclass(frozen=True, eq=False)
class Bottleneck(Change):
    """`y + up · act(down · y + b₁) + b₂`, in the dtype of `y`. N is the size of the bottleneck."""

    down: Tensor  # [N, D]
    down_bias: Tensor  # [N]
    up: Tensor  # [D, N], scaling folded in
    up_bias: Tensor  # [D], scaling folded in
    act: Callable[[Tensor], Tensor]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in (self.down, self.down_bias, self.up, self.up_bias))

    def bind(self, place: Place) -> Bottleneck:
        """The same in the base's dtype and on its device."""

        device = place.norms.device if place.is_linear else place.parameters["weight"].device

        def there(tensor: Tensor) -> Tensor:
            return tensor.to(device, place.dtype)

        return replace(
            self,
            down=there(self.down),
            down_bias=there(self.down_bias),
            up=there(self.up),
            up_bias=there(self.up_bias),
        )

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """`x` is not read. [t, in], [t, D] → [t, D]."""
        return y + self.of(y)

    def of(self, y: Tensor) -> Tensor:
        """What it adds: [t, D] → [t, D]."""
        return F.linear(self.act(F.linear(y, self.down, self.down_bias)), self.up, self.up_bias)


@dataclass(frozen=True, eq=False)
class BehindNorm(Change):
    """`norm(z + bottleneck(norm(z)))` in place of `norm(z)`, at the norm of a post-norm base."""

    bottleneck: Bottleneck
    norm: Callable[[Tensor], Tensor] | None = None  # the base's own, once bound

    @property
    def nbytes(self) -> int:
        return self.bottleneck.nbytes

    def bind(self, place: Place) -> BehindNorm:
        return BehindNorm(self.bottleneck.bind(place), place.shifted({}))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """[t, D], [t, D] → [t, D]."""
        if self.norm is None:
            raise RuntimeError("a bottleneck behind a norm acts once it is bound to its place")
        # As a difference, because another version may have changed y before.
        own = self.norm(x)
        change = self.norm(x + self.bottleneck.of(own)).float() - own.float()
        return (y.float() + change).to(y.dtype)


def prepare(spec: BottleneckSpec, tensors: dict[str, Tensor]) -> Prepared:
    """`tensors` as the spec names them, any float dtype; scaling is folded in in fp32."""
    changes: dict[str, tuple[Change, ...]] = {}
    for module in spec.target_modules:
        layer = Bottleneck(
            tensors[f"{module}.down.weight"].float(),
            tensors[f"{module}.down.bias"].float(),
            tensors[f"{module}.up.weight"].float() * spec.scaling,
            tensors[f"{module}.up.bias"].float() * spec.scaling,
            ACTIVATIONS[spec.nonlinearity],
        )
        changes[module] = (BehindNorm(layer) if spec.placement == "seq_bn" else layer,)
    return Prepared(changes=changes)
