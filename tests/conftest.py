"""Before anything imports Triton: without a GPU its kernels run in its interpreter."""

from __future__ import annotations

import os
from pathlib import Path

if not Path("/dev/nvidia0").exists():
    # Read once, when Triton is first imported, which transformers does.
    os.environ.setdefault("TRITON_INTERPRET", "1")
