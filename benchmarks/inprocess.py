"""Our engine driven in a closed loop by the process it is in, through the worker's own loader.

A child process, so that it has the engine's threads and not the peers'. The only file here that
knows the engine's insides; refuses to know servers, sockets and HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
import transformers
from rootstock_adapters.base_card import BaseCard
from rootstock_cli.bench.traffic import Ask
from rootstock_registry import Registry
from rootstock_registry.blobs import BlobStore
from rootstock_server.config import EngineLimits
from rootstock_server.engine import worker
from rootstock_server.engine.engine import Engine
from rootstock_server.engine.request import Adapter, Event, Failed, Generate, Sampling

from benchmarks.workload import BASE_NAME, Run, WrongAnswer, streamed

# As the server gives them to its engine.
ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "20000"}
WAIT_S = 0.0002  # for an adapter that is on its way


class Driver:
    """The child, from this side: one line of JSON each way."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child

    def run(self, asks: Sequence[Ask], concurrency: int) -> Run:
        """Answer all of `asks`, `concurrency` at a time. Raises WrongAnswer."""
        found = self._call({"asks": [asdict(ask) for ask in asks], "concurrency": concurrency})
        if found["tokens"] != sum(ask.new_tokens for ask in asks):
            raise WrongAnswer(f"the engine in-process made {found['tokens']} tokens")
        return streamed(found["tokens"] / found["seconds"], found["first"], found["between"])

    def _call(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()
        line = self._child.stdout.readline()
        if not line:
            raise WrongAnswer("the engine in-process has ended; it said why above")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            raise WrongAnswer(f"the engine in-process failed: {found['error']}")
        return found


@contextlib.contextmanager
def driving(base: Path, home: Path, threads: int) -> Iterator[Driver]:
    """An engine on `base` that knows the adapters of `home`, until the context ends."""
    env = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "benchmarks.inprocess", str(base), str(home), str(threads)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as child:
        assert child.stdin is not None
        try:
            yield Driver(child)
        finally:
            child.stdin.close()


@dataclass
class _Row:
    due: float
    arrivals: list[float]


class Loop:
    """The child's side: the engine, and what the names of adapters stand for."""

    def __init__(self, base_path: Path, home: Path, threads: int) -> None:
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        card = BaseCard.read(base_path, BASE_NAME)
        base, _ = worker.load(base_path, card.model_dump_json(), "auto")
        limits = EngineLimits(threads=threads)
        self._engine = Engine(base, BlobStore(home / "blobs"), limits)
        registry = Registry(home)
        self._adapters: dict[str, list[Adapter]] = {BASE_NAME: []}
        for adapter in registry.adapters("local"):
            digest = registry.resolve("local", adapter.name).digest
            self._adapters[adapter.name] = [Adapter(version=digest)]
        registry.close()
        self._ids = count()

    def generate(self, asks: Sequence[Mapping[str, Any]], concurrency: int) -> dict[str, Any]:
        """Raises RuntimeError with the engine's own words where it refuses a request."""
        left, rows, running = iter(asks), dict[str, _Row](), 0
        begun = time.perf_counter()
        while True:
            for ask in islice(left, concurrency - running):
                name, running = str(next(self._ids)), running + 1
                rows[name] = _Row(time.perf_counter(), [])
                self._check(self._engine.apply(self._command(name, ask)))
            if not running:
                break
            for event in self._step():
                rows[event.id].arrivals.append(time.perf_counter())
                running -= event.finish_reason is not None
        return _told(list(rows.values()), time.perf_counter() - begun)

    def _command(self, name: str, ask: Mapping[str, Any]) -> Generate:
        greedy = Sampling(max_tokens=ask["new_tokens"], temperature=0.0, ignore_eos=True)
        return Generate(
            id=name,
            prompt_ids=list(ask["prompt"]),
            sampling=greedy,
            adapters=self._adapters[ask["model"]],
        )

    def _step(self) -> list[Any]:
        """One step's answers; where only a load can go on, wait for it."""
        if not self._engine.busy:
            time.sleep(WAIT_S)
            self._engine.wake()
        events = self._engine.step()
        self._check(events)
        return list(events)

    def _check(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Failed):
                raise RuntimeError(event.message)

    def begin(self, asks: Sequence[Mapping[str, Any]], tokens: int) -> None:
        """Admit `asks`, each for `tokens` tokens, and read their prompts."""
        for ask in asks:
            command = self._command(str(next(self._ids)), {**ask, "new_tokens": tokens})
            self._check(self._engine.apply(command))
        answered: set[str] = set()
        while len(answered) < len(asks):
            answered |= {event.id for event in self._step()}

    def step(self) -> None:
        self._step()

    def finish(self) -> None:
        """Let what was begun run to its end."""
        while self._engine.busy:
            self._step()

    def close(self) -> None:
        self._engine.close()


def _told(rows: Sequence[_Row], seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "tokens": sum(len(row.arrivals) for row in rows),
        "first": [row.arrivals[0] - row.due for row in rows],
        "between": [
            later - earlier
            for row in rows
            for earlier, later in zip(row.arrivals, row.arrivals[1:], strict=False)
        ],
    }


def main(arguments: Sequence[str]) -> None:
    base, home, threads = arguments
    loop = Loop(Path(base), Path(home), int(threads))
    try:
        for line in sys.stdin:
            order = json.loads(line)
            try:
                found = loop.generate(**order)
            except RuntimeError as error:
                found = {"error": str(error)}
            print(json.dumps(found), flush=True)
    finally:
        loop.close()


if __name__ == "__main__":
    main(sys.argv[1:])
