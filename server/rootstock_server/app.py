"""The composition root: the only place where the server's rooms meet.

Builds the application from a configuration, and runs it with its engines, both doors and the
sidecar until it is told to stop. Refuses to decide anything about requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Registry, storage
from rootstock_wire.openai import ErrorBody

from rootstock_server import telemetry
from rootstock_server.api import (
    adapters,
    aliases,
    comparisons,
    files,
    fine_tuning,
    importing,
    native,
    openai,
    pages,
    probes,
    refusals,
)
from rootstock_server.api.grpc_api import GrpcDoor, start_grpc
from rootstock_server.api.handle import Handle
from rootstock_server.api.intake import Intake, KeyFirst, Observe
from rootstock_server.api.target import ServedBase
from rootstock_server.base.tokenizer import Tokenizer
from rootstock_server.busy import tell_when_busy
from rootstock_server.config import Config
from rootstock_server.engine.client import EngineClient
from rootstock_server.pins import follow
from rootstock_server.sidecar import Sidecar
from rootstock_server.tenancy.trust import Trust

MAX_HEADER_BYTES = 16 * 1024
KEEP_ALIVE_S = 75
WAITING_THREADS = 32  # as many as Python itself takes on a large machine
LAST_WORDS_S = 2.0  # for the error events of streams that outlived the drain


def build_app(config: Config, registry: Registry, engines: Mapping[str, EngineClient]) -> FastAPI:
    """The HTTP application over engines by base name; `app.state.handle` is the gRPC door's too."""
    metrics = telemetry.Telemetry(
        lambda: {name: engine.heartbeat for name, engine in engines.items()},
        max_adapters=config.limits.engine.max_running,
    )
    paths = {source.name: source.path for source in config.bases}
    bases = {
        name: ServedBase(engine, Tokenizer(paths[name]), paths[name])
        for name, engine in engines.items()
    }
    trust = Trust(registry, config.require_signature)
    handle = Handle(registry, bases, config.limits, metrics, trust, no_auth=config.no_auth)
    errors: dict[int | str, dict[str, Any]] = {
        "4XX": {"model": ErrorBody},
        "5XX": {"model": ErrorBody},
    }
    # The interactive pages would load scripts from elsewhere; the schema is behind the key.
    app = FastAPI(title="Rootstock", docs_url=None, redoc_url=None, responses=errors)
    app.state.handle = handle
    rooms = (probes, openai, native, adapters, importing, aliases, files, fine_tuning)
    for room in (*rooms, comparisons, pages):
        app.include_router(room.routes(handle))
    refusals.install(app)
    # The last one added is the outermost.
    app.add_middleware(Intake, limits=config.limits)
    app.add_middleware(Observe, handle=handle)
    app.add_middleware(KeyFirst, handle=handle)
    return app


def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT; then stop being ready, drain, and return.

    Raises BaseError or ServerFault where a base cannot be served, OSError where a port is taken.
    """
    telemetry.log_to_stderr()
    asyncio.run(_serve(config, Console()))


def wait_in_threads() -> None:
    """Give the running loop threads enough for those who wait for a database, a disk or a bucket.

    asyncio's own number follows the cores: on a small machine a few slow reads would hold up
    everybody, down to the look at a key.
    """
    threads = ThreadPoolExecutor(WAITING_THREADS, thread_name_prefix="waits")
    asyncio.get_running_loop().set_default_executor(threads)


async def _serve(config: Config, console: Console) -> None:
    wait_in_threads()
    stop = asyncio.Event()
    storage.remember(config.home, config.database_url, config.blobs, config.limits.blob_cache_mib)
    registry = Registry(config.home)
    cards = await asyncio.to_thread(_register, config, registry)
    listener = _listen(config.host, config.port)
    async with AsyncExitStack() as stack:
        stack.callback(registry.close)
        engines = {
            source.name: EngineClient(
                source.path, card, config.home, config.dtype, config.limits.engine
            )
            for source, card in zip(config.bases, cards, strict=True)
        }
        for engine in engines.values():
            stack.push_async_callback(engine.close)
        app = build_app(config, registry, engines)
        handle: Handle = app.state.handle
        _on_signals(handle, stop)
        await stack.enter_async_context(_http(app, listener))
        door = await start_grpc(handle, _address(config.host, config.grpc_port))
        stack.push_async_callback(door.stop)
        if not await _unless(stop, _load(engines, console)):
            return
        asked = asyncio.create_task(handle.database.run())
        stack.callback(asked.cancel)
        # Also for a sidecar that somebody else starts on this home.
        told = asyncio.create_task(tell_when_busy(config.home, lambda: handle.in_flight))
        stack.callback(told.cancel)
        if not config.no_sidecar:
            sidecar = Sidecar(config.home, config.limits.training)
            sidecar.start()
            stack.push_async_callback(sidecar.stop)
        if config.pinned:
            pins = asyncio.create_task(follow(config.pinned, registry, engines, handle.trust))
            stack.callback(pins.cancel)
        stack.enter_context(_announced(config, listener, door, console))
        await stop.wait()
        await _drain(handle, door, config.limits.drain_s)


def _register(config: Config, registry: Registry) -> list[BaseCard]:
    cards = [BaseCard.read(source.path, source.name) for source in config.bases]
    for card in cards:
        registry.add_base(card)
    return cards


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise OSError(
            f"cannot listen on {_address(host, port)}: {error.strerror}; choose another --port"
        ) from error
    # Accepted connections inherit it; asyncio sets it only where the protocol is told, which
    # create_server does not do. Without it a small answer waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _on_signals(handle: Handle, stop: asyncio.Event) -> None:
    def received() -> None:
        # A second signal means: do not wait for what still streams.
        if stop.is_set():
            handle.interrupt()
        handle.draining = True
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received)


class _Uvicorn(uvicorn.Server):
    """Leaves signals to us: uvicorn's own handler would close connections before the drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _http(app: FastAPI, listener: socket.socket) -> AsyncIterator[None]:
    server = _Uvicorn(
        uvicorn.Config(
            app,
            http="h11",  # bounds the size of headers, which httptools does not
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
        )
    )
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await running


async def _load(engines: Mapping[str, EngineClient], console: Console) -> None:
    """Start all engines at once; show which are still loading."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())

    with Progress(*columns, console=console) as progress:

        async def load(name: str, engine: EngineClient) -> None:
            line = progress.add_task(f"loading base {name}", total=1)
            await engine.start()
            # Ready is who was heard of: the first heartbeat comes within a second.
            while engine.heartbeat is None:
                await asyncio.sleep(0.02)
            started = engine.started
            how = f" ({started.dtype}, {started.backend})" if started else ""
            progress.update(line, description=f"base {name} is loaded{how}", completed=1)

        async with asyncio.TaskGroup() as group:
            for name, engine in engines.items():
                group.create_task(load(name, engine))


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Run `work` to its end, or give it up when told to stop. Raises what it raises."""
    task = asyncio.create_task(work)
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return False
    try:
        task.result()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return True


@contextlib.contextmanager
def _announced(
    config: Config, listener: socket.socket, door: GrpcDoor, console: Console
) -> Iterator[None]:
    """Say where we listen, to people and, in `run/server.json`, to programs."""
    port = listener.getsockname()[1]
    http, grpc = _address(config.host, port), _address(config.host, door.port)
    folder = config.home / "run"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / "server.json"
    facts = {
        "pid": os.getpid(),
        "host": config.host,
        "port": port,
        "grpc_port": door.port,
        "url": f"http://{http}",
        "grpc": grpc,
        "bases": [source.name for source in config.bases],
    }
    _write_whole(file, json.dumps(facts))
    console.print(f"Rootstock listens on [bold]http://{http}[/bold] and, for gRPC, on {grpc}")
    console.print(f"Training jobs are shown at http://{http}/jobs")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _write_whole(file: Path, text: str) -> None:
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(file)


async def _drain(handle: Handle, door: GrpcDoor, drain_s: float) -> None:
    """Let what is in flight finish for a while, then end it with an error that says why."""
    await door.drain()
    await _until_idle(handle, drain_s)
    handle.interrupt()
    await _until_idle(handle, LAST_WORDS_S)


async def _until_idle(handle: Handle, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while handle.in_flight:
                await asyncio.sleep(0.05)
