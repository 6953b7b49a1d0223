"""What every kind of part must say about itself, without torch: its config and its tensors' shapes.

Refuses to know any kind by name; `kinds.py` is the table of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.file import TensorHeader, check_tensors

Shapes = dict[str, tuple[int, ...]]

# Of what is multiplied with weights: with more, no weights in fp32 would stay finite for sure.
MAX_SCALING = 1e6


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        twice = min(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice} stands there twice")
    return names


Modules = Annotated[tuple[str, ...], AfterValidator(_once)]


class PartSpec(BaseModel, ABC):
    """The config of one part. Frozen, strict: an unknown field is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: ClassVar[str]
    changes_pass: ClassVar[bool] = True  # whether the base computes otherwise because of it
    before_pass: ClassVar[bool] = False  # whether it says or takes something before a pass begins

    @property
    def virtual_tokens(self) -> int:
        """How many positions of the context this part takes from every request."""
        return 0

    @abstractmethod
    def tensor_shapes(self, base: BaseCard) -> Shapes:
        """Name and shape of every tensor this part must have on `base`.

        Raises ArtifactError where the part does not fit the base.
        """

    def check(self, data: bytes, base: BaseCard) -> dict[str, TensorHeader]:
        """Check a part's safetensors bytes against what this config promises on `base`."""
        expected = self.tensor_shapes(base)
        found = check_tensors(data)
        for name in expected.keys() - found.keys():
            raise ArtifactError(f"{self.kind}: tensor {name} is missing")
        for name, tensor in found.items():
            if name not in expected:
                raise ArtifactError(f"{self.kind}: tensor {name[:200]} has no place in this base")
            if tensor.shape != expected[name]:
                raise ArtifactError(
                    f"{self.kind}: tensor {name} has shape {list(tensor.shape)}, "
                    f"expected {list(expected[name])}"
                )
        return found
