"""The registry starts lean: no torch, no migration library, half a second of one core."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import rootstock_registry
from rootstock_registry import Registry

LEAN = """
import resource, sys
from pathlib import Path
import rootstock_registry
registry = rootstock_registry.Registry(Path(sys.argv[1]))
used = resource.getrusage(resource.RUSAGE_SELF)
registry.adapters("local")
heavy = {"torch", "transformers", "peft", "alembic", "numpy"} & sys.modules.keys()
assert not heavy, heavy
print(used.ru_utime + used.ru_stime)
"""


def test_it_opens_without_torch_or_alembic_in_half_a_second_of_cpu(tmp_path: Path) -> None:
    Registry(tmp_path).close()
    runs = [
        float(subprocess.check_output([sys.executable, "-c", LEAN, str(tmp_path)]))
        for _ in range(3)
    ]
    # Processor time, and the best of three: other work on the machine is not ours to measure.
    assert min(runs) < 0.5


def test_public_names_are_sorted_and_exist() -> None:
    names = rootstock_registry.__all__
    assert names == sorted(names)
    assert names == sorted(rootstock_registry._HOMES)
    assert all(getattr(rootstock_registry, name).__name__ for name in names if name != "Role")
