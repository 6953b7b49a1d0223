"""8-bit base weights: close to what they stand for, under adapters that keep their precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from rootstock_server.backends.int8 import Int8
from rootstock_server.backends.reference import Reference
from rootstock_server.backends.select import NoBackend, int8_backend_for


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [1, 16, 70])
def test_a_product_is_within_two_percent_and_keeps_its_dtype(dtype, biased, rows):
    weights = [torch.randn(out, 96, dtype=dtype) for out in (24, 40)]
    biases = [torch.randn(len(w), dtype=dtype) if biased else None for w in weights]
    x = torch.randn(rows, 96, dtype=dtype)
    backend = Int8(Reference())
    found = backend.linear(backend.linear_prepare(weights, biases), x)
    wanted = torch.cat([F.linear(x, w, b) for w, b in zip(weights, biases, strict=True)], dim=1)
    assert found.dtype == dtype and found.shape == wanted.shape
    assert (found - wanted).float().norm() < 0.02 * wanted.float().norm()


def test_a_row_of_large_weights_does_not_coarsen_the_others():
    weight = torch.randn(32, 64)
    weight[0] *= 1000
    x = torch.randn(8, 64)
    backend = Int8(Reference())
    found = backend.linear(backend.linear_prepare([weight], [None]), x)
    wanted = x @ weight.T
    assert (found - wanted)[:, 1:].norm() < 0.02 * wanted[:, 1:].norm()


def test_a_row_is_the_same_alone_and_beside_rows_of_any_size():
    x = torch.randn(5, 64) * torch.tensor([1, 1000, 0.001, 0, 1])[:, None]
    x[4, 3] = float("nan")
    backend = Int8(Reference())
    weights = backend.linear_prepare([torch.randn(32, 64)], [torch.randn(32)])
    together = backend.linear(weights, x)
    assert together[:4].isfinite().all() and together[4].isnan().any()
    for row in range(4):
        assert torch.equal(backend.linear(weights, x[row : row + 1])[0], together[row])


def test_int8_is_refused_on_a_gpu_in_words():
    with pytest.raises(NoBackend, match="use auto"):
        int8_backend_for(torch.device("cuda"), torch.bfloat16)
