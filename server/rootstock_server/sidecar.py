"""The training sidecar as a child of the server: started, restarted when it ends, ended with us.

Knows the sidecar by its command line alone; refuses to know training.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import structlog

from rootstock_server.config import TrainingLimits

FIRST_RETRY_S, LAST_RETRY_S = 1.0, 60.0
STEADY_S = 60.0  # who ran this long gets the first delay again
STOP_S = 10.0

log = structlog.get_logger()


class Sidecar:
    def __init__(self, home: Path, limits: TrainingLimits) -> None:
        module = ("-m", "rootstock_trainer.sidecar")
        bounds = limits.model_dump_json(exclude={"max_waiting_per_tenant"})
        options = ("--home", str(home), "--until-stdin-ends", "--limits", bounds)
        self._command = (sys.executable, *module, *options)
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        """Ask it to end, and insist after ten seconds."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_RETRY_S
        while True:
            begun = loop.time()
            # Its own session: Ctrl-C in a terminal reaches it through us, after its server.
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,  # closes when we die, however we die
                start_new_session=True,
            )
            code = await self._process.wait()
            delay = FIRST_RETRY_S if loop.time() - begun > STEADY_S else delay
            log.warning("sidecar ended", exit_code=code, restart_in_s=delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY_S)
