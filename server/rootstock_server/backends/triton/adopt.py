"""Llama-like modules whose pointwise parts run as one launch each; others stay as they are.

Known by the names of transformers' classes, whose mathematics the load-time probe then compares.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor, nn

from rootstock_server.backends.triton import pointwise

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
NORMS = tuple(f"{name}RMSNorm" for name in FAMILIES)
GATED = tuple(f"{name}MLP" for name in FAMILIES)
ATTENTION = tuple(f"{name}Attention" for name in FAMILIES)


def adopt(backbone: nn.Module) -> int:
    """Swap in place what is known; return how many modules that were."""
    swapped = 0
    for module in backbone.modules():
        name = type(module).__name__
        if name in NORMS:
            module.forward = partial(rms_norm, module)
        elif name in GATED and "SiLU" in type(module.act_fn).__name__:
            module.forward = partial(gated, module)
        elif name in ATTENTION:
            _replace_rotation(sys.modules[type(module).__module__])
        else:
            continue
        swapped += 1
    return swapped


def rms_norm(module: nn.Module, x: Tensor) -> Tensor:
    """`x` [..., D] by `module`'s weight and epsilon."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    y = torch.empty_like(rows)
    width = rows.shape[1]
    pointwise.rms_norm_rows[(len(rows),)](
        rows, module.weight, y, width, module.variance_epsilon, BLOCK=triton.next_power_of_2(width)
    )
    return y.view(x.shape)


def gated(module: nn.Module, x: Tensor) -> Tensor:
    return module.down_proj(silu_product(module.gate_proj(x), module.up_proj(x)))


def silu_product(gate: Tensor, up: Tensor) -> Tensor:
    """silu(`gate`) · `up`, both [..., F] with rows apart by any stride."""
    width = gate.shape[-1]
    g, u = (t.view(-1, width) for t in (gate, up))
    y = torch.empty(g.shape, dtype=g.dtype, device=g.device)
    block = min(1024, triton.next_power_of_2(width))
    grid = (len(g), triton.cdiv(width, block))
    pointwise.silu_product[grid](g, u, y, width, g.stride(0), u.stride(0), BLOCK=block)
    return y.view(gate.shape)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`x` [1, H, T, D], D dense; `cos` and `sin` [1, T, D] → [1, H, T, D]."""
    _, heads, tokens, width = x.shape
    y = torch.empty(1, tokens, heads, width, dtype=x.dtype, device=x.device)
    pointwise.rotate[(tokens,)](
        x, y, cos.contiguous(), sin.contiguous(), x.stride(1), x.stride(2),
        HEADS=heads, WIDTH=width,
        BLOCK_H=triton.next_power_of_2(heads), BLOCK_D=triton.next_power_of_2(width // 2),
    )  # fmt: skip
    return y.transpose(1, 2)


def _replace_rotation(modelling: Any) -> None:
    """Of a modelling file: its attention looks the function up by name at every call.

    Whoever else uses that file in this process gets the same values: one batch, no gradients, on
    a GPU, or transformers' own function.
    """
    original: Callable[..., tuple[Tensor, Tensor]] = modelling.apply_rotary_pos_emb
    if getattr(original, "one_launch", False):
        return

    def apply(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *rest: Any, **named: Any) -> Any:
        alone = q.is_cuda and len(q) == 1 and cos.shape == (1, q.shape[2], q.shape[3])
        dense = q.stride(-1) == 1 and k.stride(-1) == 1
        if rest or named or not alone or not dense or torch.is_grad_enabled():
            return original(q, k, cos, sin, *rest, **named)
        return rotate(q, cos, sin), rotate(k, cos, sin)

    apply.one_launch = True  # type: ignore[attr-defined]
    modelling.apply_rotary_pos_emb = apply
