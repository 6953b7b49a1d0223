"""What a Llama-like layer does between its products, each in one launch instead of five to ten.

Rounds where transformers' modelling code rounds. Refuses to know modules; `adopt.py` does.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rms_norm_rows(x, weight, y, width, eps, BLOCK: tl.constexpr):
    """Root mean square normalisation (arXiv 1910.07467) of row `program_id`; `x`, `y` [T, D]."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    inside = d < width
    given = tl.load(x + row * width + d, mask=inside, other=0.0)
    exact = given.to(tl.float32)
    exact = exact * tl.rsqrt(tl.sum(exact * exact, axis=0) / width + eps)
    scaled = exact.to(given.dtype) * tl.load(weight + d, mask=inside, other=0.0)
    tl.store(y + row * width + d, scaled.to(given.dtype), mask=inside)


@triton.jit
def silu_product(gate, up, y, width, gate_stride, up_stride, BLOCK: tl.constexpr):
    """`y` [T, F] = silu(`gate`) · `up`, both [T, F] with their rows apart by a stride."""
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = d < width
    g = tl.load(gate + row * gate_stride + d, mask=inside, other=0.0)
    u = tl.load(up + row * up_stride + d, mask=inside, other=0.0)
    exact = g.to(tl.float32)
    active = (exact / (1 + tl.exp(-exact))).to(g.dtype)
    tl.store(y + row * width + d, active * u, mask=inside)


@triton.jit
def rotate(
    x, y, cos, sin, x_h, x_t,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rotary positions (arXiv 2104.09864), halves apart: `x` [H, T, D] strided → `y` [T, H, D].

    `cos`, `sin` [T, D].
    """
    token = tl.program_id(0)
    h = tl.arange(0, BLOCK_H)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    half: tl.constexpr = WIDTH // 2
    inside = (h < HEADS) & (d < half)
    source = x + h * x_h + token * x_t + d
    low = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    angle = token * WIDTH + d
    cos_low = tl.load(cos + angle, mask=d < half, other=0.0).to(tl.float32)
    cos_high = tl.load(cos + angle + half, mask=d < half, other=0.0).to(tl.float32)
    sin_low = tl.load(sin + angle, mask=d < half, other=0.0).to(tl.float32)
    sin_high = tl.load(sin + angle + half, mask=d < half, other=0.0).to(tl.float32)
    target = y + token * HEADS * WIDTH + h * WIDTH + d
    kind = y.dtype.element_ty
    tl.store(target, (low * cos_low - high * sin_low).to(kind), mask=inside)
    tl.store(target + half, (high * cos_high + low * sin_high).to(kind), mask=inside)
