"""The engine's process: load the base, prove it, then step, and talk over one private socket.

Started by the supervisor, which writes a `Setup` to standard input and keeps that pipe open: its
end means that the front end is gone. Refuses to know tenants, names and text.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import msgspec
import torch
import transformers
import zmq
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import BaseError
from rootstock_registry.blobs import BlobStore

from rootstock_server.backends.select import NoBackend, backend_for, int8_backend_for
from rootstock_server.base import probe
from rootstock_server.base.load import Base, load_model, prepare
from rootstock_server.config import EngineLimits
from rootstock_server.engine.engine import Engine
from rootstock_server.engine.request import Command, Event, Failed, Setup, Started

HEARTBEAT_S = 0.5


def main() -> int:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    setup = msgspec.json.decode(sys.stdin.buffer.readline(), type=Setup)
    context = zmq.Context.instance()
    socket = context.socket(zmq.PAIR)
    socket.set_hwm(0)  # a front end that reads slowly must not stop the steps
    socket.connect(setup.address)
    limits = EngineLimits.model_validate_json(setup.limits)
    torch.set_num_threads(limits.threads or 1)
    try:
        base, started = load(Path(setup.base_path), setup.card, setup.dtype, limits.backend)
    except (BaseError, NoBackend) as error:
        _send(socket, [Failed(id="", error="BaseError", message=str(error))])
        context.destroy(linger=1000)  # waits until the message is out
        return 1
    tokenizer = Path(setup.base_path) / "tokenizer.json"
    engine = Engine(base, BlobStore.of(Path(setup.home)), limits, tokenizer)
    _send(socket, [started])
    try:
        serve(engine, socket)
    finally:
        engine.close()
        socket.close(linger=0)
    return 0


def load(path: Path, card: str, dtype: str, backend: str = "auto") -> tuple[Base, Started]:
    """The base at `path`, proven to answer packed rows as it answers single ones.

    Raises BaseError, and NoBackend where the `backend` asked for is not here.
    """
    begun = time.monotonic()
    described = BaseCard.model_validate_json(card)
    model = load_model(path, described, dtype)
    prompts = probe.random_prompts(described.vocab_size, described.context_length)
    wanted = probe.expected(model, prompts)
    choose = int8_backend_for if dtype == "int8" else backend_for
    base = prepare(model, described, choose(model.device, model.dtype, backend))
    error = probe.check(base, prompts, wanted)
    name = "int8" if dtype == "int8" else str(base.dtype).removeprefix("torch.")
    seconds = time.monotonic() - begun
    return base, Started(dtype=name, backend=base.backend.name, parity_error=error, seconds=seconds)


def serve(engine: Engine, socket: zmq.Socket[bytes]) -> None:
    """Step while there is work, sleep on the socket while there is none, until the pipe ends."""
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(engine.residency.wake, zmq.POLLIN)
    poller.register(sys.stdin.fileno(), zmq.POLLIN)
    decoder = msgspec.msgpack.Decoder(Command)
    next_heartbeat = 0.0
    while True:
        ready = dict(poller.poll(0 if engine.busy else HEARTBEAT_S * 1000))
        if sys.stdin.fileno() in ready:
            return
        events: list[Event] = []
        if engine.residency.wake in ready:
            engine.wake()
        while socket in ready and socket.poll(0):
            events += engine.apply(decoder.decode(socket.recv()))
        if engine.busy:
            events += engine.step()
        if time.monotonic() >= next_heartbeat:
            next_heartbeat = time.monotonic() + HEARTBEAT_S
            events += engine.expire()
            events.append(engine.heartbeat())
        if events:
            _send(socket, events)


def _send(socket: zmq.Socket[bytes], events: list[Event]) -> None:
    socket.send(msgspec.msgpack.encode(events))


if __name__ == "__main__":
    sys.exit(main())
