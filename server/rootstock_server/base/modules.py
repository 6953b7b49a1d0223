"""Norms and embeddings: modules with weights of their own that are no linears, as places.

They stay as they are until a step brings a change for one of them. Refuses to know kinds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rootstock_server.backends.step import current


class ModulePlace:
    """One such module as changes see it (a `Place`)."""

    is_linear = False
    transposed = False
    bias: Tensor | None = None

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    @property
    def dtype(self) -> torch.dtype:
        return next(self._module.parameters(recurse=False)).dtype

    @property
    def norms(self) -> Tensor:
        raise TypeError(f"{type(self._module).__name__} is no linear")

    def product(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self._module).__name__} is no linear")

    def shifted(self, differences: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        own = dict(self._module.named_parameters(recurse=False))
        if not differences.keys() <= own.keys():
            raise KeyError(f"it has no parameter {sorted(differences.keys() - own.keys())}")
        # A copy that shares all but its parameters, and none of the hooks that would call it.
        twin = copy.copy(self._module)
        twin._forward_hooks = type(self._module._forward_hooks)()
        with torch.inference_mode():
            twin._parameters = own | {
                name: nn.Parameter((own[name] + d.to(own[name].device)).to(own[name].dtype), False)
                for name, d in differences.items()
            }
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
            self._backbone.get_submodule(path).register_forward_hook(_hook(path))


def _hook(path: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(_: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        for placed in current().changes.get(path, ()):
            placed.apply(inputs[0][0], output[0])  # rows are packed into one sequence
        return output

    return hook
