"""The GPU kernels, one by one, against plain torch: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import gpu_parity

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter keeps bf16 as whole numbers, and multiplies them as such in a matrix product.
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=["single", "half"])
@pytest.mark.parametrize("name", gpu_parity.KERNELS)
def test_kernels_answer_as_plain_torch_does(name, dtype):
    torch.manual_seed(0)
    gpu_parity.KERNELS[name](DEVICE, dtype)
