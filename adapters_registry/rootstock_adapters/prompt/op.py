"""A prompt has done its work before a pass: in the engine there is nothing left to do.

Refuses to know what it said.
"""

from __future__ import annotations

from torch import Tensor

from rootstock_adapters.op import Prepared
from rootstock_adapters.prompt.spec import PromptSpec


def prepare(spec: PromptSpec, tensors: dict[str, Tensor]) -> Prepared:
    return Prepared()
