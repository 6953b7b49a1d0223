"""The systems that continue prompts, as arms: ours over HTTP, ours in-process, and the peers.

Refuses to know what is compared with what.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rootstock_cli.bench.load import closed_loop

from benchmarks import inprocess, vllm
from benchmarks.peers import AdapterNames, Generate, Static
from benchmarks.scenario import Work
from benchmarks.server import ServerFailed
from benchmarks.stage import Server, Stage
from benchmarks.workload import ADAPTERS, Absent, Mode, Run, asks, run_of


@dataclass(frozen=True)
class Ours:
    """Our server, over HTTP with streaming, closed loop."""

    mode: Mode
    concurrency: int
    server: Server = field(default_factory=Server)
    name: str = "rootstock"

    def open(self, stage: Stage) -> Work:
        try:
            url = stage.server(self.server)
        except ServerFailed as failed:
            if self.server.dtype is None:
                raise
            raise Absent(f"no server with --dtype {self.server.dtype}: {failed}") from None
        return _over_http(self, stage, url, self.server.adapters)


@dataclass(frozen=True)
class Vllm:
    """vLLM's server, the same way. Where no adapter is asked for, it runs without LoRA."""

    mode: Mode
    concurrency: int
    name: str = "vllm"

    def open(self, stage: Stage) -> Work:
        adapters = {} if self.mode == "base" else stage.adapters
        log = stage.folder / "vllm.log"
        url = stage.once(
            ("vllm", bool(adapters)),
            lambda: stage.enter(vllm.vllm(stage.vllm, stage.base, adapters, stage.threads, log)),
        )
        return _over_http(self, stage, url, ADAPTERS)


@dataclass(frozen=True)
class InProcess:
    """Our engine without server, socket and HTTP: one process that drives its steps."""

    mode: Mode
    concurrency: int
    name: str = "engine in-process"

    def open(self, stage: Stage) -> Work:
        home = stage.home(ADAPTERS)
        driver = stage.once(
            "engine", lambda: stage.enter(inprocess.driving(stage.base, home, stage.threads))
        )
        count = stage.shape.requests(self.concurrency)

        def work(round_number: int) -> Run:
            asked = asks(stage.shape, self.mode, count, round_number, ADAPTERS)
            return driver.run(asked, self.concurrency)

        return work


@dataclass(frozen=True)
class Transformers:
    """transformers' own `generate`, static batches of the same requests; knows no adapters."""

    concurrency: int
    name: str = "transformers"

    def open(self, stage: Stage) -> Work:
        system = stage.once("transformers", lambda: Generate(stage.base))
        return _static(system, stage, "base", self.concurrency)


@dataclass(frozen=True)
class Peft:
    """PEFT's `adapter_names`, static batches of the same requests."""

    mode: Mode
    concurrency: int
    name: str = "peft"

    def open(self, stage: Stage) -> Work:
        system = stage.once("peft", lambda: AdapterNames(stage.base, stage.adapters))
        return _static(system, stage, self.mode, self.concurrency)


def _over_http(arm: Ours | Vllm, stage: Stage, url: str, adapters: int) -> Work:
    count = stage.shape.requests(arm.concurrency)

    def work(round_number: int) -> Run:
        asked = asks(stage.shape, arm.mode, count, round_number, adapters)
        return run_of(closed_loop(url, asked, arm.concurrency), asked)

    return work


def _static(system: Static, stage: Stage, mode: Mode, concurrency: int) -> Work:
    count = stage.shape.requests(concurrency)

    def work(round_number: int) -> Run:
        asked = asks(stage.shape, mode, count, round_number, ADAPTERS)
        return system.run(asked, concurrency)

    return work
