"""Attention of prompt chunks: torch's `varlen_attn` where it proves itself, else one row at a time.

Refuses to know the cache: keys and values come laid end to end.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rootstock_server.backends.step import Row
from rootstock_server.backends.triton.layout import Chunks

log = logging.getLogger(__name__)


class PackedAttention:
    """Causal attention of rows packed end to end, queries at the end of their keys."""

    def __init__(self) -> None:
        self._proven: dict[object, bool] = {}  # by dtype and head counts

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, rows: tuple[Row, ...], chunks: Chunks,
        *, scaling: float, window: int | None, softcap: float | None,
    ) -> Tensor:  # fmt: skip
        """`q` [T, Hq, D], `k` and `v` [L, H, D], all rows end to end → [T, Hq, D]."""
        windowed = window is not None and window < chunks.longest_key
        if not windowed and softcap is None and self._works(q, k, scaling):
            return _varlen(q, k, v, chunks, scaling)
        return row_by_row(q, k, v, rows, scaling=scaling, window=window, softcap=softcap)

    def _works(self, q: Tensor, k: Tensor, scaling: float) -> bool:
        """Whether varlen_attn is there for these shapes and agrees with plain attention.

        It grew its options over several releases of torch, and needs a GPU it was built for.
        """
        key = (q.dtype, q.shape[1:], k.shape[1:], scaling)
        if key not in self._proven:
            self._proven[key] = q.is_cuda and q.dtype != torch.float32 and _agrees(q, k, scaling)
        return self._proven[key]


def row_by_row(
    q: Tensor, k: Tensor, v: Tensor, rows: tuple[Row, ...],
    *, scaling: float, window: int | None, softcap: float | None,
) -> Tensor:  # fmt: skip
    """What `PackedAttention` computes, in plain torch, for any window and softcap."""
    parts, q_stop, k_stop = [], 0, 0
    for row in rows:
        q_start, q_stop = q_stop, q_stop + row.tokens
        k_start, k_stop = k_stop, k_stop + row.kv_length
        asked = q[None, q_start:q_stop].transpose(1, 2)
        keys, values = (t[None, k_start:k_stop].transpose(1, 2) for t in (k, v))
        mask = _mask(row, window, q.device)
        if softcap is None:
            out = F.scaled_dot_product_attention(
                asked, keys, values, attn_mask=mask, scale=scaling, enable_gqa=True
            )
        else:
            groups = q.shape[1] // k.shape[1]
            keys, values = (t.repeat_interleave(groups, dim=1) for t in (keys, values))
            scores = torch.tanh(asked @ keys.transpose(-1, -2) * scaling / softcap) * softcap
            scores = scores.masked_fill(~mask, float("-inf"))
            out = torch.softmax(scores, -1, dtype=torch.float32).to(q.dtype) @ values
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


def _mask(row: Row, window: int | None, device: torch.device) -> Tensor:
    asked = torch.arange(row.kv_length - row.tokens, row.kv_length, device=device)[:, None]
    position = torch.arange(row.kv_length, device=device)[None]
    mask = position <= asked
    return mask if window is None else mask & (position > asked - window)


def _varlen(q: Tensor, k: Tensor, v: Tensor, chunks: Chunks, scaling: float) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {}
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    options |= {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "scale" in known:
        options["scale"] = scaling
    elif scaling != q.shape[-1] ** -0.5:
        raise RuntimeError("this torch's varlen_attn takes no scale")
    out: Tensor = varlen_attn(
        q.contiguous(), k.contiguous(), v.contiguous(),
        chunks.query_ends, chunks.key_ends, chunks.longest_query, chunks.longest_key,
        **options,
    )  # fmt: skip
    return out


def _agrees(q: Tensor, k: Tensor, scaling: float) -> bool:
    rows = (Row(0, 3, 3), Row(3, 8, 12), Row(8, 9, 7))
    ends = torch.tensor([[0, 3, 8, 9], [0, 3, 15, 22]], dtype=torch.int32, device=q.device)
    chunks = Chunks(ends[0], ends[1], longest_query=5, longest_key=12, places=None)
    asked = torch.randn(9, *q.shape[1:], dtype=q.dtype, device=q.device)
    keys, values = torch.randn(2, 22, *k.shape[1:], dtype=k.dtype, device=k.device)
    wanted = row_by_row(asked, keys, values, rows, scaling=scaling, window=None, softcap=None)
    try:
        found = _varlen(asked, keys, values, chunks, scaling)
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        log.warning("varlen_attn does not serve here, prompts attend row by row: %s", error)
        return False
    error = float((found - wanted).float().abs().max())
    if not error <= 0.05:
        log.warning("varlen_attn differs from plain attention by %.2g: it is not used", error)
        return False
    return True
