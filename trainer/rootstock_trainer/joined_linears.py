"""Linears of one frozen base that several low-rank adapters share: one product, many updates.

The rows of a batch are ordered by adapter; each updates its own rows and no others. Refuses to know
jobs, losses, and who trains what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

PACKED_FOR = 512  # rows that the packed weights are laid out for; any number may come
# What all packed copies may take together. A base for which that is too little is held once, as it
# came: its products are large enough to be fast in any layout.
PACKED_BYTES = 1 << 30


class LowRank(NamedTuple):
    """The update scaling · B · A of one linear (Hu et al., arXiv 2106.09685)."""

    down: Tensor  # A: [R, in]
    up: Tensor  # B: [out, R]
    scaling: float


class Share(NamedTuple):
    """`rows` of the batch that go through `updates`, by the linears' paths."""

    rows: int
    updates: Mapping[str, LowRank]


class Shares:
    """Whose rows the present batch holds, in their order; set before each forward pass."""

    def __init__(self) -> None:
        self.now: Sequence[Share] = ()

    def of(self, path: str, rows: int) -> list[tuple[slice, LowRank]]:
        """Where the adapters of the linear at `path` act, in `rows` flattened rows.

        A row of the batch is several here, one for each of its tokens.
        """
        each, rest = divmod(rows, max(1, sum(share.rows for share in self.now)))
        if rest:
            raise ValueError(f"{path} sees {rows} rows that do not divide among the batch's rows")
        found, start = [], 0
        for share in self.now:
            end = start + share.rows * each
            if path in share.updates:
                found.append((slice(start, end), share.updates[path]))
            start = end
        return found


def join_linears(model: nn.Module) -> Shares:
    """Change `model`'s linears in place to serve whoever the returned shares name."""
    shares = Shares()
    linears = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }
    packed = 2 * sum(linear.weight.nbytes for linear in linears.values()) <= PACKED_BYTES
    for path, linear in linears.items():
        joined = partial(_joined, Frozen(linear, packed), shares, path)
        linear.forward = joined  # type: ignore[method-assign]
    return shares


class Frozen:
    """A linear's weight that nobody trains, so that it can be laid out once for oneDNN, whose
    fp32 product of such a weight is much faster on some CPUs than that of a plain one. That takes
    a copy for each direction; without `packed` there is none."""

    def __init__(self, linear: nn.Linear | Conv1D, packed: bool) -> None:
        weight = linear.weight.detach()
        if isinstance(linear, Conv1D):
            weight = weight.t()
        self.bias = linear.bias
        self._ahead = _packed(weight) if packed else weight
        self._back = _packed(weight.t()) if packed else weight.t()

    def ahead(self, rows: Tensor) -> Tensor:
        """[T, in] to [T, out]."""
        return _product(rows, self._ahead, self.bias)

    def back(self, gradient: Tensor) -> Tensor:
        """[T, out] to [T, in]: what reaches the input."""
        return _product(gradient, self._back, None)


def _packed(weight: Tensor) -> Tensor:
    if not _packs(weight):
        return weight
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_FOR)
    return packed


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if not weight.is_mkldnn:
        return nn.functional.linear(rows, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return product


def _packs(weight: Tensor) -> bool:
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return plain and torch.backends.mkldnn.is_available() and min(weight.shape) > 1


def _joined(linear: Frozen, shares: Shares, path: str, inputs: Tensor) -> Tensor:
    """[..., in] to [..., out]; the batch comes first."""
    rows = inputs.reshape(-1, inputs.shape[-1])
    own = shares.of(path, len(rows))
    matrices = [matrix for _, update in own for matrix in (update.down, update.up)]
    places = [(place, update.scaling) for place, update in own]
    found: Tensor = _Joined.apply(rows, linear, places, *matrices)
    return found.view(*inputs.shape[:-1], found.shape[-1])


class _Joined(torch.autograd.Function):
    """One node of autograd for all adapters: their small products would cost more in nodes than
    in arithmetic."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, linear: Frozen, places: Sequence[tuple[slice, float]], *own: Tensor
    ) -> Tensor:
        out = linear.ahead(rows)
        inner = []
        for (place, scaling), down, up in _threes(places, own):
            inner.append(rows[place] @ down.t())
            out[place].addmm_(inner[-1], up.t(), alpha=scaling)
        ctx.linear, ctx.places, ctx.count = linear, places, len(own)
        ctx.save_for_backward(rows, *own, *inner)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0].contiguous()
        rows, *saved = ctx.saved_tensors
        own, inner = saved[: ctx.count], saved[ctx.count :]
        back = ctx.linear.back(gradient) if ctx.needs_input_grad[0] else None
        found: list[Tensor] = []
        for number, ((place, scaling), down, up) in enumerate(_threes(ctx.places, own)):
            narrow = (gradient[place] @ up).mul_(scaling)
            if back is not None:
                back[place].addmm_(narrow, down)
            found += [narrow.t() @ rows[place], (gradient[place].t() @ inner[number]).mul_(scaling)]
        return back, None, None, *found


def _threes(
    places: Sequence[tuple[slice, float]], own: Sequence[Tensor]
) -> Iterable[tuple[tuple[slice, float], Tensor, Tensor]]:
    return zip(places, own[::2], own[1::2], strict=True)
