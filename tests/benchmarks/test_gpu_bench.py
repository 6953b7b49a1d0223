"""The GPU benchmark's measuring, rehearsed on a CPU with a tiny base and plain torch."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch
from rootstock_server.backends.reference import Reference

pytest.importorskip("triton")

from benchmarks import gpu_measure, gpu_report
from benchmarks.gpu_model import Bench, Shape

TINY = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


@pytest.fixture(scope="module")
def bench():
    shape = Shape(TINY, torch.float32, adapters=4, batches=(1, 4), context=40, prompt=33)
    return Bench(shape, Reference())


def test_every_batch_is_measured_beside_the_base(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_measure, "STEPS", 2)
    said = []
    cells = list(gpu_measure.decode_cells(bench, 1e9, said.append, time.monotonic() + 600))
    assert [(c["rows"], c["adapters"]) for c in cells] == [(1, 0), (1, 1), (4, 0), (4, 1), (4, 4)]
    assert all(cell["of_base"] == 1 for cell in cells if not cell["adapters"])
    results = {"decode": cells, "prompts": gpu_measure.prompts(bench), "failed": []}
    files = gpu_report.write(tmp_path, "measure", results)
    assert json.loads(files[0].read_text())["decode"] == cells
    assert "1 adapters" in files[1].read_text()
    assert "missed" in files[1].read_text() or "reached" in files[1].read_text()


def test_the_bytes_of_a_step_are_counted(bench):
    linears = 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 32 * 48) + 32 * 64
    assert bench.weight_bytes == 4 * linears
    # in and out of q, k, v; of o; of gate and up; of down
    ends = 2 * ((3 * 32 + 64) + (32 + 32) + (2 * 32 + 96) + (48 + 32))
    assert bench.adapter_bytes == 4 * 16 * ends
    assert bench.row_bytes == 4 * 40 * 2 * 2 * 2 * 8


def test_without_a_gpu_it_says_so_and_fails():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "no CUDA device" in done.stdout
