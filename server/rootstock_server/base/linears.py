"""The base's linears, replaced by ones that adapters can be attached to.

Linears that read the same input (q, k, v; gate, up) run as one product. Refuses to know kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rootstock_server.backends.backend import Backend
from rootstock_server.backends.step import current

# Siblings that transformers' modelling code calls with one and the same tensor.
SHARED_INPUT = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("gate_proj", "up_proj"),
    ("q", "k", "v"),
    ("wi_0", "wi_1"),
)
# Of attention that reads an encoder's output: only the queries come from elsewhere.
SHARED_SOURCE = (("k_proj", "v_proj"), ("k", "v"))


class LinearGroup:
    """Linears with one input, computed as one; the place where updates are added."""

    def __init__(
        self, backend: Backend, number: int, paths: list[str], linears: list[nn.Module]
    ) -> None:
        weights = [_weight(linear) for linear in linears]
        self.number = number
        self.paths = paths  # module path of each member, seen from the backbone
        self.outs = [len(weight) for weight in weights]
        self.in_features = weights[0].shape[1]
        self.biases: list[Tensor | None] = [linear.bias for linear in linears]
        self.norms = [_row_norms(weight) for weight in weights]
        self.transposed = [isinstance(linear, Conv1D) for linear in linears]
        self.dtype = weights[0].dtype
        self._backend = backend
        self._weights = backend.linear_prepare(weights, self.biases)
        self._last: tuple[Tensor, list[Tensor]] | None = None

    def member(self, number: int, x: Tensor) -> Tensor:
        """Output of one member. The siblings' outputs for the same tensor are kept for them."""
        if self._last is None or self._last[0] is not x:
            self._last = (x, self.run(x))
        output = self._last[1][number]
        if number == len(self.outs) - 1:
            self._last = None  # do not keep activations alive after the last sibling
        return output

    def run(self, x: Tensor) -> list[Tensor]:
        """Every member's output, with what the running step attaches to it."""
        step = current()
        flat = x.reshape(-1, self.in_features)
        ys = self._split(flat)
        for attachment in step.attachments:
            self._backend.delta(ys, flat, self.number, attachment)
        if step.changes:
            for path, y in zip(self.paths, ys, strict=True):
                for placed in step.changes.get(path, ()):
                    placed.apply(flat, y)
        return [out.view(*x.shape[:-1], -1) for out in ys]

    @torch.inference_mode()
    def product(self, number: int, x: Tensor) -> Tensor:
        """`x` [t, in] times one member's frozen weight, without its bias."""
        y, bias = self._split(x.to(self.dtype))[number], self.biases[number]
        return y if bias is None else y - bias

    def _split(self, flat: Tensor) -> list[Tensor]:
        y = self._backend.linear(self._weights, flat)
        return [y] if len(self.outs) == 1 else list(y.split_with_sizes(self.outs, dim=-1))


class LinearPlace:
    """One linear as changes see it (a `Place`)."""

    is_linear = True
    scale = 1.0

    def __init__(self, group: LinearGroup, number: int) -> None:
        self._group, self._number = group, number
        self.bias, self.norms = group.biases[number], group.norms[number]
        self.transposed, self.dtype = group.transposed[number], group.dtype

    @property
    def parameters(self) -> dict[str, Tensor]:
        raise TypeError("a linear's weight is packed: ask for its product with a matrix instead")

    def product(self, x: Tensor) -> Tensor:
        return self._group.product(self._number, x)

    def shifted(self, differences: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        raise TypeError("a linear's weight is packed: add the product of the difference instead")


class AdaptedLinear(nn.Module):
    """Stands where the base had a linear; its weights live in the group."""

    weight: None = None  # T5's code looks at its dtype before calling a linear

    def __init__(self, group: LinearGroup, number: int) -> None:
        super().__init__()
        self.group, self.number = group, number
        self.in_features, self.out_features = group.in_features, group.outs[number]

    def forward(self, x: Tensor) -> Tensor:
        return self.group.member(self.number, x)

    # Nothing hooks it, and torch's way to `forward` takes as long as a small product.
    __call__ = forward


def adapt(backbone: nn.Module, backend: Backend) -> list[LinearGroup]:
    """Replace every linear of `backbone` in place; return the groups, numbered in order."""
    groups: list[LinearGroup] = []
    for path, parent in list(backbone.named_modules()):
        for names in _families(parent):
            paths = [f"{path}.{name}".lstrip(".") for name in names]
            group = LinearGroup(
                backend, len(groups), paths, [getattr(parent, name) for name in names]
            )
            groups.append(group)
            for number, name in enumerate(names):
                setattr(parent, name, AdaptedLinear(group, number))
    return groups


def _families(parent: nn.Module) -> Iterator[tuple[str, ...]]:
    linears = [n for n, child in parent.named_children() if isinstance(child, nn.Linear | Conv1D)]
    crosses = getattr(parent, "is_decoder", False) and not getattr(parent, "is_causal", True)
    for family in SHARED_SOURCE if crosses else SHARED_INPUT:
        if set(family) <= set(linears):
            linears = [name for name in linears if name not in family]
            yield family
    for name in linears:
        yield (name,)


def _weight(linear: nn.Module) -> Tensor:
    """[out, in], also for GPT-2's Conv1D, which stores [in, out]."""
    weight: Tensor = linear.weight
    return weight.T if isinstance(linear, Conv1D) else weight


def _row_norms(weight: Tensor) -> Tensor:
    """[out] fp32; the weight itself is packed out of sight."""
    return torch.linalg.vector_norm(weight.detach(), dim=1, dtype=torch.float32)
