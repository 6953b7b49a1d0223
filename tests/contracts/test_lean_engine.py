"""The engine's arithmetic runs where only torch, transformers, peft, safetensors and numpy are."""

from __future__ import annotations

import subprocess
import sys

ABSENT = (
    "pydantic", "pydantic_settings", "msgspec", "structlog", "sqlalchemy", "alembic", "fastapi",
    "uvicorn", "zmq", "typer", "rich", "grpc", "prometheus_client", "pytest",
)  # fmt: skip
MODULES = (
    "rootstock_server.base.load",
    "rootstock_server.base.probe",
    "rootstock_server.adapters.attach",
    "rootstock_server.engine.kv_blocks",
    "rootstock_server.engine.runner",
    "rootstock_server.backends.triton.backend",
    "benchmarks.gpu",
    "benchmarks.gpu_parity",
    "benchmarks.gpu_batches",
    "benchmarks.gpu_model",
    "benchmarks.gpu_measure",
)


def test_the_engine_imports_with_torch_and_transformers_alone():
    # transformers asks whether rich and pydantic are installed; as None they are not.
    program = (
        "import sys\n"
        f"for name in {ABSENT!r}: sys.modules[name] = None\n"
        f"for name in {MODULES!r}: __import__(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
