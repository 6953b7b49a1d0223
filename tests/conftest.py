"""Before anything is imported or started: Triton's interpreter, and a Ctrl-C that is heard.

Before each test: chance begins anew, so that a test draws the same whichever ran before it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import pytest

if not Path("/dev/nvidia0").exists():
    # Read once, when Triton is first imported, which transformers does.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What runs in the background of a shell ignores Ctrl-C, and so would every program that is started
# here: the tests send them one.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
