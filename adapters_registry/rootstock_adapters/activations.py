"""Nonlinearities by the names that configs use, as plain torch computes them.

Refuses to know which kind asks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# "gelu" is the exact one, with the error function (Hendrycks and Gimpel, arXiv 1606.08415).
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
