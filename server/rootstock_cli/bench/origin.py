"""What must be known to repeat a measurement: the command, the machine, the versions.

Refuses to know what was measured.
"""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

LIBRARIES = ("rootstock-server", "torch", "transformers", "peft", "aiohttp", "uvicorn")


def origin(command: Sequence[str], libraries: Sequence[str] = LIBRARIES) -> dict[str, Any]:
    """`command`, `machine` and `versions`; a library that is not installed is left out."""
    return {
        "command": shlex.join(command),
        "machine": {"cpu": _cpu(), "cores": len(os.sched_getaffinity(0))},
        "versions": {"python": platform.python_version(), **_versions(libraries)},
    }


def _versions(libraries: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    name = facts.get("model name", platform.machine())
    # Clouds hide the processor's number; family and model say which generation it is.
    return f"{name}, family {facts.get('cpu family', '?')}, model {facts.get('model', '?')}"
