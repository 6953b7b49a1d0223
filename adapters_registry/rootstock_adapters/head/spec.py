"""A head part's config and tensors: pooling, label names, a linear layer or a small MLP.

Refuses to know torch and whose hidden states it will read.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.spec import PartSpec, Shapes

Label = Annotated[str, Field(min_length=1, max_length=128)]
HeadPooling = Literal["cls", "mean", "last", "max", "none"]
Activation = Literal["relu", "gelu", "silu", "tanh"]


class HeadSpec(PartSpec):
    """`softmax(weight · z + bias)` over `labels`.

    `z` is the cls, mean, last or largest (per dimension) hidden state, divided by its L2 norm where
    `normalize` is set; with the pooling `none` each token's own, and each token has its own label.
    With a hidden layer of `hidden` units, `activation(hidden.weight · z + hidden.bias)` stands in
    place of `z`.
    """

    kind: ClassVar[str] = "head"
    changes_pass: ClassVar[bool] = False

    pooling: HeadPooling
    normalize: bool
    labels: tuple[Label, ...] = Field(min_length=2, max_length=1024)
    hidden: int | None = Field(default=None, ge=1, le=16384)
    activation: Activation = "tanh"

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):
            raise ValueError("labels must be distinct")
        return labels

    @property
    def per_token(self) -> bool:
        return self.pooling == "none"

    def tensor_shapes(self, base: BaseCard) -> Shapes:
        width = self.hidden or base.hidden_size
        shapes: Shapes = {"weight": (len(self.labels), width), "bias": (len(self.labels),)}
        if self.hidden:
            shapes["hidden.weight"] = (self.hidden, base.hidden_size)
            shapes["hidden.bias"] = (self.hidden,)
        return shapes
