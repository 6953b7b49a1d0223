"""Which backend a base on a device gets. Refuses to know how any of them computes."""

from __future__ import annotations

import torch

from rootstock_server.backends.backend import Backend
from rootstock_server.backends.reference import Reference


def backend_for(device: torch.device) -> Backend:
    if device.type == "cuda":
        # Imported here alone: Triton is there only where a GPU's torch is.
        from rootstock_server.backends.triton.backend import Triton

        return Triton()
    return Reference(device.type)
