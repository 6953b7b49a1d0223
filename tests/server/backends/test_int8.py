"""8-bit base weights: close to what they stand for, under adapters that keep their precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from rootstock_server.backends import int8
from rootstock_server.backends.cpu import cpu
from rootstock_server.backends.cpu.cpu_int8 import CpuInt8
from rootstock_server.backends.int8 import Int8
from rootstock_server.backends.reference import Reference
from rootstock_server.backends.select import NoBackend, int8_backend_for


@pytest.fixture(params=["onednn", "kernel"])
def backend(request: pytest.FixtureRequest) -> Int8:
    if request.param == "onednn":
        return Int8(Reference())
    if not (cpu.available() and torch.ops.rootstock_cpu.has_linear()):
        pytest.skip("this machine has no products of 8 bits, or the kernels are not built")
    return CpuInt8(cpu.Cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 5, 16, 70])
def test_a_product_is_within_two_percent_and_keeps_its_dtype(backend, dtype, biased, rows):
    weights = [torch.randn(out, 96, dtype=dtype) for out in (24, 40)]
    biases = [torch.randn(len(w), dtype=dtype) if biased else None for w in weights]
    x = torch.randn(rows, 96, dtype=dtype)
    found = backend.linear(backend.linear_prepare(weights, biases), x)
    wanted = torch.cat([F.linear(x, w, b) for w, b in zip(weights, biases, strict=True)], dim=1)
    assert found.dtype == dtype and found.shape == wanted.shape
    assert (found - wanted).float().norm() < 0.02 * wanted.float().norm()


def test_a_row_of_large_weights_does_not_coarsen_the_others(backend):
    weight = torch.randn(32, 64)
    weight[0] *= 1000
    x = torch.randn(8, 64)
    found = backend.linear(backend.linear_prepare([weight], [None]), x)
    wanted = x @ weight.T
    assert (found - wanted)[:, 1:].norm() < 0.02 * wanted[:, 1:].norm()


def test_a_row_is_the_same_alone_and_beside_rows_of_any_size(backend):
    x = torch.randn(5, 64) * torch.tensor([1, 1000, 0.001, 0, 1])[:, None]
    x[4, 3] = float("nan")
    weights = backend.linear_prepare([torch.randn(32, 64)], [torch.randn(32)])
    together = backend.linear(weights, x)
    assert together[:4].isfinite().all() and together[4].isnan().any()
    for row in range(4):
        assert torch.equal(backend.linear(weights, x[row : row + 1])[0], together[row])


@pytest.mark.parametrize(("out", "width"), [(16, 4), (24, 96), (37, 300), (1000, 768)])
@pytest.mark.parametrize("rows", [1, 3, 12, 33])
def test_the_kernel_is_exact_on_what_eight_bits_hold(backend, out, width, rows):
    """Whole numbers whose largest is a step in every row and output: nothing is rounded away."""
    steps = int8.STEPS if type(backend) is Int8 else 127
    chance = torch.Generator().manual_seed(out * rows)
    weight = torch.randint(-127, 128, (out, width), generator=chance).float()
    x = torch.randint(-steps, steps + 1, (rows, width), generator=chance).float()
    weight[:, 0], x[:, 0] = 127, steps
    found = backend.linear(backend.linear_prepare([weight], [None]), x)
    torch.testing.assert_close(found, x @ weight.T, rtol=1e-6, atol=0.5)


def test_int8_is_refused_on_a_gpu_in_words():
    with pytest.raises(NoBackend, match="use auto"):
        int8_backend_for(torch.device("cuda"), torch.bfloat16)
