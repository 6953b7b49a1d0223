"""An IA3 part's config and tensors. The names are PEFT's, seen from the backbone.

Refuses to know torch and how the factors are applied.
"""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.replaced.spec import replaced_shapes
from rootstock_adapters.spec import Modules, PartSpec, Shapes


class Ia3Spec(PartSpec):
    """`y = l ∘ (W x + b)`, and `y = W (l ∘ x) + b` for `feedforward_modules`.

    All are full module paths; `feedforward_modules` are among `target_modules`. Of
    `modules_to_save` the part has every parameter itself.
    """

    kind: ClassVar[str] = "ia3"

    target_modules: Modules = Field(min_length=1)
    feedforward_modules: Modules = ()
    modules_to_save: Modules = ()

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        if strangers := set(self.feedforward_modules) - set(self.target_modules):
            raise ValueError(f"feedforward_modules: {min(strangers)} is not in target_modules")
        if both := set(self.modules_to_save) & set(self.target_modules):
            raise ValueError(f"modules_to_save: {min(both)} is in target_modules, too")
        return self

    def tensor_shapes(self, base: BaseCard) -> Shapes:
        shapes = replaced_shapes(self.kind, base, self.modules_to_save)
        linears = base.linears | base.output
        for module in self.target_modules:
            if module not in linears:
                raise ArtifactError(f"ia3: base {base.name} has no linear named {module}")
            out_features, in_features = linears[module]
            inward = module in self.feedforward_modules
            shapes[f"{module}.ia3_l"] = (1, in_features) if inward else (out_features, 1)
        return shapes
