"""Before anything is imported or started: Triton's interpreter, and a Ctrl-C that is heard."""

from __future__ import annotations

import os
import signal
from pathlib import Path

if not Path("/dev/nvidia0").exists():
    # Read once, when Triton is first imported, which transformers does.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What runs in the background of a shell ignores Ctrl-C, and so would every program that is started
# here: the tests send them one.
signal.signal(signal.SIGINT, signal.default_int_handler)
