"""Every GPU kernel compiles to machine code of compute capability 9.0; no GPU is needed for that.

In a process of its own: there Triton is no interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

PROGRAM = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from rootstock_server.backends.triton import low_rank, paged, pointwise

TYPES = dict.fromkeys(["scales", "hidden", "out", "sums", "peaks", "parts"], "*fp32")
TYPES |= dict.fromkeys(["slots", "ranks", "starts", "stops", "places", "lengths"], "*i64")
TYPES |= dict.fromkeys(["scaling", "eps"], "fp32") | {"table": "*i32"}
NUMBERS = {"width", "x_stride", "y_stride", "out0", "out1", "out2", "key_h", "key_t", "value_h",
           "value_t", "q_h", "q_t", "table_stride", "gate_stride", "up_stride", "x_h", "x_t"}
UPDATE = dict(MEMBERS=3, RANK=16, BLOCK_R=16, BLOCK_T=16, BLOCK_K=128, BLOCK_N=128)
ROWS = dict(HEADS=8, GROUP=4, WIDTH=128, PAGE=32, SPLITS=4, BLOCK_G=16, BLOCK_N=64, BLOCK_D=128,
            BLOCK_H=8, BLOCK=1024, WINDOW=0, SOFTCAP=0.0)
for kernel, options in [
    (low_rank.shrink_tokens, UPDATE), (low_rank.expand_tokens, UPDATE),
    (low_rank.shrink_segments, UPDATE), (low_rank.expand_segments, UPDATE),
    (paged.store_kv, ROWS), (paged.attend_rows, ROWS),
    (paged.attend_rows, ROWS | {"WINDOW": 7, "SOFTCAP": 2.0, "SPLITS": 1}),
    (paged.join_splits, ROWS), (pointwise.rms_norm_rows, ROWS),
    (pointwise.silu_product, ROWS), (pointwise.rotate, ROWS | {"BLOCK_D": 64}),
]:
    fixed = {name: options[name] for name in kernel.arg_names if name in options}
    kinds = {name: "constexpr" if name in fixed else "i32" if name in NUMBERS
             else TYPES.get(name, "*bf16") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=kinds, constexprs=fixed)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert made.asm["cubin"], kernel.__name__
"""


def test_kernels_compile_for_a_gpu():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
