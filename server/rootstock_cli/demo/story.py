"""The demo from its first line to its last: the chapters in order, on one server.

Refuses to know what happens inside a chapter; each one fails the demo if it did not happen.
"""

from __future__ import annotations

import socket
import time
from pathlib import Path

from rich.console import Console

from rootstock_cli import shipped
from rootstock_cli.demo.device import run_on_device
from rootstock_cli.demo.making import train_heads, train_voices
from rootstock_cli.demo.split import split_tasks
from rootstock_cli.demo.stage import Stage, program, tenant_keys
from rootstock_cli.demo.swap import swap_while_streaming
from rootstock_cli.demo.talking import ask_voices, classify_sentences
from rootstock_cli.private_server import private_server
from rootstock_cli.registry import open_registry, register_base

PORTS = {"--port": 8000, "--grpc-port": 8001}
# The trainer's and the device's arithmetic, so that figures and texts compare exactly.
ARITHMETIC = ("--dtype", "float32")


def tell(home: Path, once: bool) -> None:
    """Tell the story; then serve on until Ctrl-C, unless `once`."""
    began = time.perf_counter()
    console = Console()
    console.print(f"Everything of this demo stays in {home}.", highlight=False, soft_wrap=True)
    sources = {name: shipped.find_base(name) for name in shipped.SHIPPED}
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    registry = open_registry(home)
    cards = {name: register_base(registry, source) for name, source in sources.items()}
    keys = tenant_keys(home, registry)
    with private_server(home, list(sources.values()), [*_ports(), *ARITHMETIC]) as server:
        stage = Stage(home, console, registry, sources, cards, keys, server)
        stage.say(f"Serving {' and '.join(sources)} on {server.url}, for gRPC on {server.grpc}.")
        heads = train_heads(stage)
        voices = train_voices(stage)
        ask_voices(stage)
        verdicts = classify_sentences(stage)
        swap_while_streaming(stage, voices)
        split_tasks(stage, voices)
        run_on_device(stage, heads, verdicts)
        _how_to_repeat(stage, once)
        minutes, seconds = divmod(round(time.perf_counter() - began), 60)
        stage.say(f"\nTold in {minutes} min {seconds} s.")
        if not once:
            stage.say("Serving on. Ctrl-C ends it.")
            server.wait()


def _ports() -> list[str]:
    """The usual ports where they are free, any free ones where not."""
    options = []
    for option, port in PORTS.items():
        with socket.socket() as probe:
            taken = probe.connect_ex(("127.0.0.1", port)) == 0
        options += [option, "0" if taken else str(port)]
    return options


def _how_to_repeat(stage: Stage, once: bool) -> None:
    stage.chapter("To do it again yourself")
    lines = list(stage.exports)
    if once:
        bases = " ".join(f"--base {name}" for name in stage.sources)
        lines.insert(
            0, f"{program('rootstock')} serve {bases} {' '.join(ARITHMETIC)} --home {stage.home} &"
        )
    for what, command in stage.repeat:
        lines += [f"\n# {what}", command]
    for line in lines:
        stage.line(line)
