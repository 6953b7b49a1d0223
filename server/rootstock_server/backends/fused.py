"""Swap well-known parts of a base for single operations: RMSNorm, the gated MLP, rotary embedding.

Structure makes a part a candidate; a random input decides. Refuses to know architectures by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from rootstock_server.backends.step import Step, running

ROTARY = "apply_rotary_pos_emb"
# Of a value's own size. A different formula differs by far more; another order of sums, by less.
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Pointwise:
    """What stands between the products, each as one operation, rounded as transformers rounds."""

    rms_norm: Callable[..., Tensor]  # x [..., D], weight [D], eps, one_plus (Gemma's) → [..., D]
    rotate: Callable[..., Tensor]  # x [1, H, T, D], cos and sin [1, T, D] → [1, H, T, D]
    gated: Callable[..., Tensor]  # gate and up [..., F], silu or gelu_tanh → [..., F]


@torch.inference_mode()
def fuse(backbone: nn.Module, pointwise: Pointwise) -> int:
    """Swap, in place, every part that is proven to compute the same; return how many were."""
    swapped = 0
    dtype = next(backbone.parameters()).dtype
    nobody = torch.zeros(0, dtype=torch.long)
    with running(Step(nobody, nobody, ())):  # in which no adapter is attached
        for parent in list(backbone.modules()):
            swapped += _fuse_rotary(parent, dtype, pointwise)
            for name, child in list(parent.named_children()):
                new = _fused_norm(child, pointwise) or _fused_gate(child, dtype, pointwise)
                if new is not None:
                    setattr(parent, name, new)
                    swapped += 1
    return swapped


class FusedNorm(nn.Module):
    """RMSNorm in one pass."""

    def __init__(self, norm: nn.Module, eps: float, one_plus: bool, pointwise: Pointwise) -> None:
        super().__init__()
        self.weight, self.variance_epsilon, self.one_plus = norm.weight, eps, one_plus
        self._run = pointwise.rms_norm

    def forward(self, x: Tensor) -> Tensor:
        return self._run(x, self.weight, self.variance_epsilon, self.one_plus)


class FusedGate(nn.Module):
    """down(act(gate(x)) * up(x)), the middle in one pass. The linears keep their names."""

    def __init__(self, mlp: nn.Module, kind: str, pointwise: Pointwise) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.act_fn, self.kind = mlp.act_fn, kind
        self._run = pointwise.gated

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.down_proj(self._run(self.gate_proj(x), self.up_proj(x), self.kind))
        return hidden


def _fused_norm(norm: nn.Module, pointwise: Pointwise) -> nn.Module | None:
    if [name for name, _ in norm.named_parameters()] != ["weight"] or list(norm.children()):
        return None
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if norm.weight.dim() != 1 or not isinstance(eps, float):
        return None
    x = _random(1, 3, len(norm.weight), dtype=norm.weight.dtype)
    for one_plus in (False, True):
        new = FusedNorm(norm, eps, one_plus, pointwise)
        if _same(norm, new, x):
            return new
    return None


def _fused_gate(mlp: nn.Module, dtype: torch.dtype, pointwise: Pointwise) -> nn.Module | None:
    parts = dict(mlp.named_children())
    if set(parts) != {"gate_proj", "up_proj", "down_proj", "act_fn"}:
        return None
    x = _random(1, 3, mlp.gate_proj.in_features, dtype=dtype)
    for kind in ("silu", "gelu_tanh"):
        new = FusedGate(mlp, kind, pointwise)
        if _same(mlp, new, x):
            return new
    return None


def _fuse_rotary(attention: nn.Module, dtype: torch.dtype, pointwise: Pointwise) -> bool:
    """Let this attention's own `forward` call ours where it names transformers' function.

    The code stays transformers'; one name in it means something else, in this module alone.
    """
    forward = type(attention).forward
    if not isinstance(forward, FunctionType) or ROTARY not in forward.__code__.co_names:
        return False
    theirs = forward.__globals__[ROTARY]
    q, k = _random(1, 4, 3, 16, dtype=dtype), _random(1, 2, 3, 16, dtype=dtype)
    cos, sin = _random(2, 1, 3, 16, dtype=dtype)
    ours = _rotary(theirs, pointwise.rotate)
    if not _same(theirs, ours, q, k, cos, sin):
        return False
    names = {**forward.__globals__, ROTARY: ours}
    copy = FunctionType(
        forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__
    )
    copy.__kwdefaults__ = forward.__kwdefaults__
    attention.forward = MethodType(copy, attention)
    return True


def _rotary(theirs: Callable[..., Any], rotate: Callable[..., Tensor]) -> Callable[..., Any]:
    def apply(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **options: Any) -> Any:
        if more or options or cos.shape[-1] != q.shape[-1] or cos.dtype != q.dtype:
            return theirs(q, k, cos, sin, *more, **options)
        return rotate(q, cos, sin), rotate(k, cos, sin)

    return apply


def _random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def _same(theirs: Callable[..., Any], ours: Callable[..., Any], *inputs: Tensor) -> bool:
    """Whether both compute the same from `inputs`. Whatever cannot take them is not the same."""
    try:
        wanted, found = theirs(*inputs), ours(*inputs)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return False
    pairs = zip(wanted, found, strict=True) if isinstance(wanted, tuple) else [(wanted, found)]
    return all(_close(a, b) for a, b in pairs)


def _close(a: Tensor, b: Tensor) -> bool:
    tolerance = CLOSE[a.dtype]
    return a.shape == b.shape and torch.allclose(b, a, rtol=tolerance, atol=tolerance)
