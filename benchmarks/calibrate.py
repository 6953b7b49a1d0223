"""What the machine can do right now: how fast it reads, and how fast it multiplies.

Cores on shared machines come and go; runs between two equal calibrations can be compared. Refuses
to know what runs between them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

READ_MIB, READS = 256, 8  # much more than caches hold
SIZE, PRODUCTS = 1024, 24  # of square bfloat16 matrices

# Made once: filling it would take longer than reading it.
_read: list[torch.Tensor] = []


@dataclass(frozen=True)
class Calibration:
    """All threads together."""

    bytes_per_s: float
    operations_per_s: float


def calibrate() -> Calibration:
    """Takes about a tenth of a second."""
    return Calibration(_bytes_per_s(), _operations_per_s())


def _bytes_per_s() -> float:
    if not _read:
        _read.append(torch.ones(READ_MIB << 18))
    begun = time.perf_counter()
    for _ in range(READS):
        _read[0].sum()
    return READS * (READ_MIB << 20) / (time.perf_counter() - begun)


def _operations_per_s() -> float:
    a = torch.ones(SIZE, SIZE, dtype=torch.bfloat16)
    begun = time.perf_counter()
    for _ in range(PRODUCTS):
        a @ a
    return PRODUCTS * 2 * SIZE**3 / (time.perf_counter() - begun)
