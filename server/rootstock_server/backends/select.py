"""Which backend a base on a device gets. Refuses to know how any of them computes."""

from __future__ import annotations

import logging

import torch

from rootstock_server.backends.backend import Backend
from rootstock_server.backends.cpu import cpu
from rootstock_server.backends.cpu.cpu_int8 import CpuInt8
from rootstock_server.backends.int8 import Int8
from rootstock_server.backends.reference import Reference

log = logging.getLogger(__name__)


class NoBackend(RuntimeError):
    """The backend that was asked for is not here. The message says what to do."""


def int8_backend_for(device: torch.device, dtype: torch.dtype, wanted: str = "auto") -> Backend:
    """As `backend_for`, with the base's linears in 8 bits. Raises NoBackend on a GPU as well."""
    if device.type != "cpu":
        raise NoBackend("dtype: int8 is for CPUs; use auto, float32 or bfloat16 on a GPU")
    inner = backend_for(device, dtype, wanted)
    if isinstance(inner, cpu.Cpu) and torch.ops.rootstock_cpu.has_linear():
        return CpuInt8(inner)
    return Int8(inner)


def backend_for(device: torch.device, dtype: torch.dtype, wanted: str = "auto") -> Backend:
    """`wanted` is `auto` (the fastest that is here), `reference` or `cpu`.

    Raises NoBackend where it was asked for by name and is not here.
    """
    if device.type == "cuda" and wanted == "auto":
        # Imported here alone: Triton is there only where a GPU's torch is.
        from rootstock_server.backends.triton.backend import Triton

        return Triton()
    fits = device.type == "cpu" and dtype in cpu.DTYPES
    if wanted != "reference" and fits:
        if cpu.available():
            return cpu.Cpu()
        log.warning("no CPU kernels for torch %s: plain torch serves, slower", torch.__version__)
    if wanted == "cpu":
        raise NoBackend(
            f"limits.engine.backend: there are no CPU kernels for {dtype} on {device} and torch "
            f"{torch.__version__}; build them with make setup, or use auto"
        )
    return Reference(device.type)
