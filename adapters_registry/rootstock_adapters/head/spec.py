"""A head part's config and tensors: pooling, label names, one linear layer.

Refuses to know torch and whose hidden states it will read.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from rootstock_adapters.base_card import BaseCard, Pooling
from rootstock_adapters.spec import PartSpec, Shapes

Label = Annotated[str, Field(min_length=1, max_length=128)]


class HeadSpec(PartSpec):
    """`softmax(weight · pooled + bias)` over `labels`.

    `pooled` is the cls, mean or last hidden state, divided by its L2 norm where `normalize` is set.
    """

    kind: ClassVar[str] = "head"

    pooling: Pooling
    normalize: bool
    labels: tuple[Label, ...] = Field(min_length=2, max_length=1024)

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(labels)) != len(labels):
            raise ValueError("labels must be distinct")
        return labels

    def tensor_shapes(self, base: BaseCard) -> Shapes:
        return {"weight": (len(self.labels), base.hidden_size), "bias": (len(self.labels),)}
