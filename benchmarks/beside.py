"""A training job beside a serving server: what each of them gets done meanwhile.

The sidecar is a process of its own on the server's home, as `serve` starts it; the job is paused
while the other arm has its turn. Refuses to know how the job steps back.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from rootstock_cli.bench.load import closed_loop
from rootstock_registry import Job, Registry

from benchmarks.scenario import Work
from benchmarks.stage import TENANT, Server, Stage
from benchmarks.workload import ADAPTERS, BASE_NAME, SEED, Run, WrongAnswer, asks, run_of

ROWS, WORDS = 64, 8
ALONE_S = 10.0  # how long the job is watched while nobody is served
START_LIMIT_S = 180.0
SETTINGS = {"n_epochs": 1000, "batch_size": 4, "rank": 8}


@dataclass(frozen=True)
class Beside:
    """Requests in a closed loop, with a job beside them or without.

    `job_steps_per_s` without one is what the cores that serving leaves idle would allow: the job's
    speed when nobody is served, times the idle share of the one core that it may use.
    """

    job: bool
    concurrency: int

    @property
    def name(self) -> str:
        return "beside a job" if self.job else "alone"

    def open(self, stage: Stage) -> Work:
        url = stage.server(Server())
        training = stage.once("training", lambda: stage.enter(_training(stage)))
        count = stage.shape.requests(self.concurrency)

        def work(round_number: int) -> Run:
            asked = asks(stage.shape, "mixed", count, round_number, ADAPTERS)
            serve = lambda: run_of(closed_loop(url, asked, self.concurrency), asked)  # noqa: E731
            if self.job:
                return training.beside(serve)
            idle, run = _idle_cores(serve)
            return _with_steps(run, training.alone_steps_per_s * min(1.0, idle))

        return work


class Training:
    """One endless job, and the sidecar that runs it."""

    def __init__(self, registry: Registry, job: Job) -> None:
        self._registry, self._job = registry, job
        self.alone_steps_per_s = 0.0

    def beside(self, serve: Callable[[], Run]) -> Run:
        """`serve` while the job trains, with the steps that it made meanwhile."""
        self._go_on()
        begun, before = time.perf_counter(), self._steps()
        run = serve()
        steps, seconds = self._steps() - before, time.perf_counter() - begun
        self.put_aside()
        return _with_steps(run, steps / seconds)

    def measure_alone(self) -> None:
        self._go_on()
        begun, before = time.perf_counter(), self._steps()
        time.sleep(ALONE_S)
        self.alone_steps_per_s = (self._steps() - before) / (time.perf_counter() - begun)
        self.put_aside()

    def put_aside(self) -> None:
        self._registry.pause_job(TENANT, self._job.id)
        self._wait(lambda job: job.state == "paused")

    def _go_on(self) -> None:
        self._registry.resume_job(TENANT, self._job.id)
        first = self._steps()
        # Two beats of its heart after the start: it is warm, and its row is up to date.
        self._wait(lambda job: job.progress.get("stage") == "training" and _done(job) > first)

    def _steps(self) -> int:
        return _done(self._registry.job(self._job.id))

    def _wait(self, there: Callable[[Job], bool]) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not there(job := self._registry.job(self._job.id)):
            if job.finished_at is not None or time.monotonic() > deadline:
                raise WrongAnswer(f"the job is {job.state}: {job.error or job.progress}")
            time.sleep(0.05)


@contextlib.contextmanager
def _training(stage: Stage) -> Iterator[Training]:
    home = stage.home(ADAPTERS)
    registry = Registry(home)
    job = registry.submit_job(TENANT, _spec(stage, _rows(stage)))
    command = [sys.executable, "-m", "rootstock_trainer.sidecar", "--home", str(home)]
    log = (home / "sidecar.log").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=log) as sidecar:
        try:
            training = Training(registry, job)
            training.measure_alone()
            yield training
        finally:
            registry.cancel_job(TENANT, job.id)
            sidecar.terminate()
            sidecar.wait()
            registry.close()


def _spec(stage: Stage, data: Path) -> Mapping[str, object]:
    return {
        "method": "lora",
        "base": BASE_NAME,
        "base_path": str(stage.base),
        "data": str(data),
        "name": "beside",
        "hyperparameters": SETTINGS,
    }


def _rows(stage: Stage) -> Path:
    """Completions of a few random words each."""
    source, file = Random(SEED), stage.folder / "beside.jsonl"

    def words() -> str:
        return " ".join("".join(source.choices("abcdefgh", k=2)) for _ in range(WORDS))

    rows = [{"prompt": words(), "completion": f" {words()}"} for _ in range(ROWS)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _done(job: Job) -> int:
    return int(job.progress.get("done", 0)) if job.progress.get("stage") == "training" else 0


def _with_steps(run: Run, steps_per_s: float) -> Run:
    return replace(run, figures={**run.figures, "job_steps_per_s": steps_per_s})


def _idle_cores(work: Callable[[], Run]) -> tuple[float, Run]:
    """How many cores did nothing during `work`, as the kernel counts it."""
    begun, before = time.perf_counter(), _idle_seconds()
    run = work()
    idle = (_idle_seconds() - before) / (time.perf_counter() - begun)
    return max(idle, 0.01), run  # a share of nothing is nothing to compare with


def _idle_seconds() -> float:
    ticks = Path("/proc/stat").read_text().splitlines()[0].split()
    return int(ticks[4]) / os.sysconf("SC_CLK_TCK")
