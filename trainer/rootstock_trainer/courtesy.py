"""Training steps back while requests are being answered: a pause between two steps.

The server touches a file while it has requests in flight; nothing else is said between the two.
Refuses to know what a step does.
"""

from __future__ import annotations

import time
from pathlib import Path

# A file touched longer ago than this speaks of the past: the server has no requests, or is gone.
FRESH_S = 1.0
# The pause after a step, as a share of the step: half of the time that is there is trained.
SHARE = 1.0
MAX_PAUSE_S = 2.0
LOOK_S = 0.02


def busy_file(home: Path) -> Path:
    return home / "run" / "busy"


class Courtesy:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._began = time.monotonic()

    def give_way(self) -> None:
        """Between two steps: wait about as long as the last one took, while the server is busy."""
        step = time.monotonic() - self._began
        until = time.monotonic() + min(SHARE * step, MAX_PAUSE_S)
        while time.monotonic() < until and self._busy():
            time.sleep(LOOK_S)
        self._began = time.monotonic()

    def _busy(self) -> bool:
        try:
            # Both from the clock of the machine: the server's touch, and now. A touch of the
            # future was made before the clock was set back.
            return abs(time.time() - self._file.stat().st_mtime) < FRESH_S
        except FileNotFoundError:
            return False
