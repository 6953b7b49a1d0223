"""The base's linears, replaced by ones that adapters can be attached to.

Linears that read the same input (q, k, v; gate, up) run as one product. Refuses to know kinds.
"""

from __future__ import annotations

from collections.abc import Iterator

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
)


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
        self._backend = backend
        self.weights = backend.linear_prepare(weights, [linear.bias for linear in linears])
        self._last: tuple[Tensor, list[Tensor]] | None = None

    def member(self, number: int, x: Tensor) -> Tensor:
        """Output of one member. The siblings' outputs for the same tensor are kept for them."""
        if self._last is None or self._last[0] is not x:
            self._last = (x, self._run(x))
        output = self._last[1][number]
        if number == len(self.outs) - 1:
            self._last = None  # do not keep activations alive after the last sibling
        return output

    def _run(self, x: Tensor) -> list[Tensor]:
        flat = x.reshape(-1, self.in_features)
        y = self._backend.linear(self.weights, flat)
        ys = list(y.split(self.outs, dim=-1))
        for attachment in current().attachments:
            self._backend.delta(ys, flat, self.number, attachment)
        return [out.view(*x.shape[:-1], -1) for out in ys]


class AdaptedLinear(nn.Module):
    """Stands where the base had a linear; its weights live in the group."""

    def __init__(self, group: LinearGroup, number: int) -> None:
        super().__init__()
        self.group, self.number = group, number
        self.in_features, self.out_features = group.in_features, group.outs[number]

    def forward(self, x: Tensor) -> Tensor:
        return self.group.member(self.number, x)


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
    for family in SHARED_INPUT:
        if set(family) <= set(linears):
            linears = [name for name in linears if name not in family]
            yield family
    for name in linears:
        yield (name,)


def _weight(linear: nn.Module) -> Tensor:
    """[out, in], also for GPT-2's Conv1D, which stores [in, out]."""
    weight: Tensor = linear.weight
    return weight.T if isinstance(linear, Conv1D) else weight


class OutputLinear:
    """The output embedding, packed like every other linear; adapters do not act on it."""

    def __init__(self, linear: nn.Module, backend: Backend) -> None:
        self._backend = backend
        self._weights = backend.linear_prepare([linear.weight], [linear.bias])

    @torch.inference_mode()
    def __call__(self, hidden: Tensor) -> Tensor:
        """`hidden` [S, hidden] → logits [S, vocabulary] in fp32."""
        return self._backend.linear(self._weights, hidden).float()
