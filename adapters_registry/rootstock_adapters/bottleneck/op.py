"""A bottleneck layer as a change of the linear that ends a sublayer.

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

        def there(tensor: Tensor) -> Tensor:
            return tensor.to(place.norms.device, place.dtype)

        return replace(
            self,
            down=there(self.down),
            down_bias=there(self.down_bias),
            up=there(self.up),
            up_bias=there(self.up_bias),
        )

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """`x` is not read. [t, in], [t, D] → [t, D]."""
        return y + F.linear(self.act(F.linear(y, self.down, self.down_bias)), self.up, self.up_bias)


def prepare(spec: BottleneckSpec, tensors: dict[str, Tensor]) -> Prepared:
    """`tensors` as the spec names them, any float dtype; scaling is folded in in fp32."""
    return Prepared(
        changes={
            module: (
                Bottleneck(
                    tensors[f"{module}.down.weight"].float(),
                    tensors[f"{module}.down.bias"].float(),
                    tensors[f"{module}.up.weight"].float() * spec.scaling,
                    tensors[f"{module}.up.bias"].float() * spec.scaling,
                    ACTIVATIONS[spec.nonlinearity],
                ),
            )
            for module in spec.target_modules
        }
    )
