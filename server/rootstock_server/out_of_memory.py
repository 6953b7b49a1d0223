"""Which errors mean that no memory was left: the same request may succeed in a moment.

Refuses to know who needed it.
"""

from __future__ import annotations

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, a device or torch's allocator of main memory had nothing left to give."""
    # The last has no class of its own: c10/core/impl/alloc_cpu.cpp raises a RuntimeError.
    known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    return known or "DefaultCPUAllocator: can't allocate memory" in str(error)
