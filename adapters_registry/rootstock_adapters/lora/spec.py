"""A LoRA part's config and tensors. The names are PEFT's, seen from the backbone.

Refuses to know torch and how the update is computed.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.replaced.spec import replaced_shapes
from rootstock_adapters.spec import MAX_SCALING, Modules, PartSpec, Shapes

Rank = Annotated[int, Field(ge=1, le=256)]
Alpha = Annotated[float, Field(gt=0, le=MAX_SCALING)]


class LoraSpec(PartSpec):
    """`y = W x + scaling · B (A x)` for each module path in `target_modules`.

    All paths are full ones inside the backbone (`layers.0.self_attn.q_proj`; `lm_head` is the
    output linear): which modules a short name meant is decided once, at import or training, not at
    every load. `rank_pattern` and `alpha_pattern` hold what differs from `r` and `lora_alpha`.
    Embeddings among the targets get `E[token] + scaling · B A[token]`. With `use_dora` the updated
    weight's rows are brought to the lengths in a magnitude vector (Liu et al., arXiv 2402.09353).
    Of `modules_to_save` the part has every parameter itself, of `biases` the bias.
    """

    kind: ClassVar[str] = "lora"

    r: Rank
    lora_alpha: Alpha
    use_rslora: bool = False
    use_dora: bool = False
    target_modules: Modules = Field(min_length=1)
    rank_pattern: dict[str, Rank] = Field(default_factory=dict)
    alpha_pattern: dict[str, Alpha] = Field(default_factory=dict)
    modules_to_save: Modules = ()
    biases: Modules = ()

    @model_validator(mode="after")
    def _patterns_are_of_targets(self) -> Self:
        for field in ("rank_pattern", "alpha_pattern"):
            if strangers := set(getattr(self, field)) - set(self.target_modules):
                raise ValueError(f"{field}: {min(strangers)} is not in target_modules")
        if both := set(self.modules_to_save) & set(self.biases):
            raise ValueError(f"biases: {min(both)} is in modules_to_save, too")
        return self

    def rank(self, module: str) -> int:
        return self.rank_pattern.get(module, self.r)

    def scaling(self, module: str) -> float:
        """alpha / r; alpha / sqrt(r) for rsLoRA (Kalajdzievski, arXiv 2312.03732)."""
        rank, alpha = self.rank(module), self.alpha_pattern.get(module, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def tensor_shapes(self, base: BaseCard) -> Shapes:
        shapes = replaced_shapes(self.kind, base, self.modules_to_save, self.biases)
        linears = base.linears | base.output
        for module in self.target_modules:
            if module in base.embeddings:
                shapes |= self._embedding_shapes(module, base)
            elif module in linears:
                shapes |= self._linear_shapes(module, linears[module])
            else:
                raise ArtifactError(
                    f"lora: base {base.name} has no linear named {module}, and no embedding"
                )
        return shapes

    def _linear_shapes(self, module: str, size: tuple[int, int]) -> Shapes:
        out_features, in_features = size
        magnitude = {f"{module}.lora_magnitude_vector": (out_features,)} if self.use_dora else {}
        return magnitude | {
            f"{module}.lora_A.weight": (self.rank(module), in_features),
            f"{module}.lora_B.weight": (out_features, self.rank(module)),
        }

    def _embedding_shapes(self, module: str, base: BaseCard) -> Shapes:
        if self.use_dora:
            raise ArtifactError(f"lora: use_dora: not served on an embedding ({module})")
        rows, width = base.embeddings[module]
        return {
            f"{module}.lora_embedding_A": (self.rank(module), rows),
            f"{module}.lora_embedding_B": (width, self.rank(module)),
        }
