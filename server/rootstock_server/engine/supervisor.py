"""Start the engine's process, and start it again when it dies.

Refuses to know what is said over the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable

import msgspec

from rootstock_server.engine.request import Setup

log = logging.getLogger(__name__)

FIRST_RETRY_S, LAST_RETRY_S = 0.5, 30.0
STOP_S = 5.0


class Supervisor:
    """Keeps one engine process alive. `died` is called with its exit code each time it ends
    without being told to, and says whether it had been of use: then the next one starts soon.
    One that ends before it has answered anything would do so again at once: it waits longer.
    """

    def __init__(self, setup: Setup, threads: int, died: Callable[[int], bool]) -> None:
        self._setup, self._threads, self._died = setup, threads, died
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._spawn()
        self._watch = asyncio.create_task(self._keep_alive())

    async def stop(self) -> None:
        """Ask the process to leave by closing its pipe; insist after a while."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        process = self._process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _spawn(self) -> None:
        threads = {
            "OMP_NUM_THREADS": str(self._threads),
            # A step has hundreds of short parallel regions. Threads that sleep at once between
            # them waste time waking up; threads that spin on starve whoever shares their cores.
            "GOMP_SPINCOUNT": "20000",
        }
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rootstock_server.engine.worker",
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal reaches it through us
            env={**os.environ, **threads},
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(self._setup) + b"\n")
        await self._process.stdin.drain()

    async def _keep_alive(self) -> None:
        delay = FIRST_RETRY_S
        loop = asyncio.get_running_loop()
        while self._process is not None:
            begun = loop.time()
            code = await self._process.wait()
            useful = self._died(code)
            lived = loop.time() - begun
            delay = FIRST_RETRY_S if useful or lived > LAST_RETRY_S else delay
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY_S)
            try:
                await self._spawn()
            except OSError:  # no memory or no process to be had: try again later
                log.exception("the engine's process could not be started")
