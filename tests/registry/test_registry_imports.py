"""The registry starts lean: no torch, no migration library, little of one core."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import rootstock_registry
from rootstock_registry import Registry

# A third of a second on the machine that this was written on; torch alone takes several.
LIMIT_S = 1.5
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


def test_it_opens_without_torch_or_alembic_in_little_time(tmp_path: Path) -> None:
    Registry(tmp_path).close()
    lean = [sys.executable, "-c", LEAN, str(tmp_path)]
    # Processor time, and the best of three: other work on the machine is not ours to measure.
    assert any(float(subprocess.check_output(lean)) < LIMIT_S for _ in range(3))


def test_public_names_are_sorted_and_exist() -> None:
    names = rootstock_registry.__all__
    assert names == sorted(names)
    assert names == sorted(rootstock_registry._HOMES)
    assert all(getattr(rootstock_registry, name).__name__ for name in names if name != "Role")
