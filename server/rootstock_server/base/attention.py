"""The attention that a base's own modelling code calls: packed rows, paged cache.

Registered with transformers' AttentionInterface and not with its mask interface: masks are ours.
"""

from __future__ import annotations

from typing import Any

from rootstock_adapters.errors import BaseError
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from rootstock_server.backends.step import current

NAME = "rootstock"


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """`query` [1, Hq, T, D], `key` and `value` [1, H, T, D] → [1, T, Hq, D].

    transformers passes more (dropout, position ids, cache flags); a frozen base needs none of it.
    """
    step = current()
    backend = step.backend
    if backend is None:
        raise RuntimeError("the base was called outside Base.forward")
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    q, k, v = query[0], key[0], value[0]
    own = getattr(module, "packed", None)
    if own is not None:  # an encoder-decoder's: its keys and values are not in the cache
        out = own(q, k, v, step, scaling)
    elif module.is_causal:
        out = backend.attend(
            q, k, v,
            layer=module.layer_idx, step=step, scaling=scaling,
            window=sliding_window, softcap=softcap,
        )  # fmt: skip
    else:
        out = backend.attend_bidirectional(
            q, k, v, step=step, scaling=scaling, window=sliding_window
        )
    return out.unsqueeze(0), None


AttentionInterface.register(NAME, packed_attention)


def use_packed_attention(model: PreTrainedModel) -> None:
    """Switch `model` over. Raises BaseError where it only pretends to switch."""
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise BaseError(
            f"{type(model).__name__} does not let its attention be replaced, so packed requests "
            "would read one another: it is not served"
        )
