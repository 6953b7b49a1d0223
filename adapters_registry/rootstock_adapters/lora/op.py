"""LoRA's weights as the low-rank updates that an engine attaches to linears.

Refuses to know where they will be resident.
"""

from __future__ import annotations

from torch import Tensor

from rootstock_adapters.lora.spec import LoraSpec
from rootstock_adapters.op import LowRank, Prepared


def prepare(spec: LoraSpec, tensors: dict[str, Tensor]) -> Prepared:
    """`tensors` as the spec names them, any float dtype; scaling is folded into `up` in fp32."""
    linears = {}
    for module in spec.target_modules:
        down = tensors[f"{module}.lora_A.weight"]
        up = tensors[f"{module}.lora_B.weight"]
        linears[module] = LowRank(down.float(), up.float() * spec.scaling)
    return Prepared(linears=linears)
