"""A head's mathematics: pool the hidden states, then one linear layer.

The trainer, the server and the exporter all call these functions, so they cannot differ.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from rootstock_adapters.base_card import Pooling
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.op import Prepared, Readout


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling, normalize: bool) -> Tensor:
    """`hidden` [B, L, D], over the tokens where `mask` [B, L] is 1 (right-padded) → [B, D] fp32.

    Mean pooling and the norm are sentence-transformers' (Reimers and Gurevych, arXiv 1908.10084).
    """
    hidden, weights = hidden.float(), mask.unsqueeze(-1).float()
    if pooling == "cls":
        pooled = hidden[:, 0]
    elif pooling == "last":
        last = (mask.sum(1) - 1).clamp(min=0)
        pooled = hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)
    else:
        pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return F.normalize(pooled, dim=-1) if normalize else pooled


def logits(pooled: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`pooled` [B, D] → [B, labels], in fp32."""
    return F.linear(pooled.float(), weight.float(), bias.float())


def prepare(spec: HeadSpec, tensors: dict[str, Tensor]) -> Prepared:
    weight, bias = tensors["weight"].float(), tensors["bias"].float()
    return Prepared(readout=Readout(spec.pooling, spec.normalize, spec.labels, weight, bias))
