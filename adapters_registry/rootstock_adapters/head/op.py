"""A head's mathematics: pool the hidden states, then one linear layer or a small MLP.

The trainer, the server and the exporter all call these functions, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rootstock_adapters.activations import ACTIVATIONS
from rootstock_adapters.head.spec import HeadPooling, HeadSpec
from rootstock_adapters.op import Prepared, Readout


def pool(hidden: Tensor, mask: Tensor, pooling: HeadPooling, normalize: bool) -> Tensor:
    """`hidden` [B, L, D], over the tokens where `mask` [B, L] is 1 (right-padded) → [B, D] fp32.

    With the pooling `none` each token stays itself: [B, L, D]. Mean pooling and the norm are
    sentence-transformers' (Reimers and Gurevych, arXiv 1908.10084).
    """
    hidden, weights = hidden.float(), mask.unsqueeze(-1).float()
    if pooling == "cls":
        pooled = hidden[:, 0]
    elif pooling == "last":
        last = (mask.sum(1) - 1).clamp(min=0)
        pooled = hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)
    elif pooling == "max":
        pooled = hidden.masked_fill(weights == 0, float("-inf")).amax(1)
    elif pooling == "none":
        pooled = hidden
    else:
        pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
    return F.normalize(pooled, dim=-1) if normalize else pooled


def logits(pooled: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`pooled` [B, D] → [B, labels], in fp32."""
    return F.linear(pooled.float(), weight.float(), bias.float())


def classify(pooled: Tensor, head: Readout) -> Tensor:
    """`pooled` […, D] → [… , labels], in fp32, through the hidden layer where there is one."""
    if head.hidden_weight is not None and head.hidden_bias is not None:
        inner = logits(pooled, head.hidden_weight, head.hidden_bias)
        pooled = ACTIVATIONS[head.activation](inner)
    return logits(pooled, head.weight, head.bias)


def classify_all(hidden: Tensor, mask: Tensor, heads: Sequence[Readout]) -> list[Tensor]:
    """Each head's logits of one pass: [B, labels], or [B, L, labels] where it labels tokens.

    Heads that pool alike share the pooled vector, and the linear ones among them one product.
    """
    alike: dict[tuple[HeadPooling, bool], list[int]] = {}
    for number, head in enumerate(heads):
        alike.setdefault((head.pooling, head.normalize), []).append(number)
    found: dict[int, Tensor] = {}
    for (pooling, normalize), numbers in alike.items():
        pooled = pool(hidden, mask, pooling, normalize)
        linear = [number for number in numbers if heads[number].hidden_weight is None]
        if linear:
            found |= zip(linear, _stacked(pooled, [heads[n] for n in linear]), strict=True)
        found |= {n: classify(pooled, heads[n]) for n in numbers if n not in found}
    return [found[number] for number in range(len(heads))]


def _stacked(pooled: Tensor, heads: Sequence[Readout]) -> Sequence[Tensor]:
    if len(heads) == 1:
        return [classify(pooled, heads[0])]
    weight = torch.cat([head.weight for head in heads])
    bias = torch.cat([head.bias for head in heads])
    return torch.split(logits(pooled, weight, bias), [len(head.labels) for head in heads], dim=-1)


def readout(spec: HeadSpec, tensors: Mapping[str, Tensor]) -> Readout:
    """`tensors` as the spec names them, any float dtype."""
    fp32 = {name: tensors[name].float() for name in tensors}
    return Readout(
        spec.pooling,
        spec.normalize,
        spec.labels,
        fp32["weight"],
        fp32["bias"],
        fp32.get("hidden.weight"),
        fp32.get("hidden.bias"),
        spec.activation,
    )


def prepare(spec: HeadSpec, tensors: dict[str, Tensor]) -> Prepared:
    return Prepared(readout=readout(spec, tensors))
