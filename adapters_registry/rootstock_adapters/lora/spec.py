"""A LoRA part's config and tensors. The names are PEFT's, seen from the backbone.

Refuses to know torch and how the update is computed.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.spec import PartSpec, Shapes


class LoraSpec(PartSpec):
    """`y = W x + scaling · B (A x)` for each module path in `target_modules`.

    `target_modules` are full paths inside the backbone (`layers.0.self_attn.q_proj`): which linears
    a short name meant is decided once, at import or training, not at every load.
    """

    kind: ClassVar[str] = "lora"

    r: int = Field(ge=1, le=256)
    lora_alpha: float = Field(gt=0)
    use_rslora: bool = False
    target_modules: tuple[str, ...] = Field(min_length=1)

    @property
    def scaling(self) -> float:
        """alpha / r; alpha / sqrt(r) for rsLoRA (Kalajdzievski, arXiv 2312.03732)."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)

    def tensor_shapes(self, base: BaseCard) -> Shapes:
        shapes: Shapes = {}
        for module in self.target_modules:
            if module not in base.linears:
                raise ArtifactError(f"lora: base {base.name} has no linear named {module}")
            out_features, in_features = base.linears[module]
            shapes[f"{module}.lora_A.weight"] = (self.r, in_features)
            shapes[f"{module}.lora_B.weight"] = (out_features, self.r)
        return shapes
