"""A soft prompt's tensor as the virtual tokens that an engine puts before a request's own.

Refuses to know where they stand in a batch.
"""

from __future__ import annotations

from torch import Tensor

from rootstock_adapters.op import Prepared, Virtual
from rootstock_adapters.soft_prompt.spec import TENSOR, SoftPromptSpec


def prepare(spec: SoftPromptSpec, tensors: dict[str, Tensor]) -> Prepared:
    learned = tensors[TENSOR].float()
    if spec.method == "prompt_tuning":
        return Prepared(virtual=Virtual(spec.num_virtual_tokens, embeddings=learned))
    return Prepared(virtual=Virtual(spec.num_virtual_tokens, keys_values=learned))
