"""Norms and embeddings: modules with weights of their own that are no linears, as places.

They stay as they are until a step brings a change for one of them. Refuses to know kinds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from rootstock_server.backends.step import current

# OPT's position embedding reads nothing else where it is given this by name.
POSITIONS = "position_ids"


class ModulePlace:
    """One such module as changes see it (a `Place`)."""

    is_linear = False
    transposed = False
    bias: Tensor | None = None

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.scale = float(getattr(module, "scalar_embed_scale", getattr(module, "embed_scale", 1)))

    @property
    def parameters(self) -> dict[str, Tensor]:
        return dict(self._module.named_parameters(recurse=False))

    @property
    def dtype(self) -> torch.dtype:
        return next(self._module.parameters(recurse=False)).dtype

    @property
    def norms(self) -> Tensor:
        raise TypeError(f"{type(self._module).__name__} is no linear")

    def product(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self._module).__name__} is no linear")

    def shifted(self, differences: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        own = self.parameters
        if not differences.keys() <= own.keys():
            raise KeyError(f"it has no parameter {sorted(differences.keys() - own.keys())}")
        # A copy that shares all but its parameters, and none of the hooks that would call it.
        twin = copy.copy(self._module)
        twin._forward_hooks = type(self._module._forward_hooks)()
        with torch.inference_mode():
            twin._parameters = self._module._parameters | {
                name: nn.Parameter((own[name] + d.to(own[name].device)).to(own[name].dtype), False)
                for name, d in differences.items()
            }
        if POSITIONS in signature(twin.forward).parameters:
            return lambda x: twin(None, **{POSITIONS: x})  # type: ignore[no-any-return]
        return twin


class Hooks:
    """Applies a step's changes to the outputs of modules that are no linears."""

    def __init__(self, backbone: nn.Module) -> None:
        self._backbone = backbone
        self._hooked: set[str] = set()

    def cover(self, paths: set[str]) -> None:
        """Make sure that changes at `paths` are seen. Called between forward passes only."""
        for path in paths - self._hooked:
            self._hooked.add(path)
            self._backbone.get_submodule(path).register_forward_hook(_hook(path), with_kwargs=True)


def _hook(path: str) -> Callable[[nn.Module, Any, Any, Tensor], Tensor]:
    def hook(_: nn.Module, inputs: Any, named: Any, output: Tensor) -> Tensor:
        step = current()
        if placed := step.changes.get(path, ()):
            x = named.get(POSITIONS, inputs[0] if inputs else None)
            tokens, out = _by_token(x, output, len(step.token_ids))
            for each in placed:
                each.apply(tokens, out)
        return output

    return hook


def _by_token(x: Tensor, y: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Views of a module's input and output with the axis of the packed tokens first.

    Mostly that is the axis after the batch's only sequence.
    """
    if x.dim() == 2 and x.is_floating_point():  # OPT drops the batch before a norm
        return x, y
    axis = 1
    if x.dim() == 4 and x.shape[2] == tokens:
        # Gemma 3 normalizes queries as [1, H, T, D]. Where T is H, memory tells which axis is
        # which: projections write token after token.
        axis = 2 if x.shape[1] != tokens or x.stride(2) > x.stride(1) else 1
    return x[0].movedim(axis - 1, 0), y[0].movedim(axis - 1, 0)
