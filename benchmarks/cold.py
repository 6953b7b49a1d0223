"""What a first use of an adapter costs: its caller, and everybody else meanwhile.

Rows on warm adapters keep the server busy; beside them probes ask, one after the other, for
adapters that it has never seen, or for warm ones. Refuses to know how the server loads.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from rootstock_cli.bench.load import Answer, Caller
from rootstock_cli.bench.report import TAIL, quantile
from rootstock_cli.bench.traffic import Ask, prompt

from benchmarks.scenario import Work
from benchmarks.stage import Server, Stage
from benchmarks.workload import Run, Shape, WrongAnswer, adapter_names

BEHIND, PROBES = 8, 8  # rows on warm adapters, and probes of a run
MOST_ROUNDS = 6  # a warm one among them
COLD = Server(adapters=2 * BEHIND + MOST_ROUNDS * PROBES)


@dataclass(frozen=True)
class Probed:
    """Probes for cold adapters, or for warm ones, beside the same load."""

    cold: bool

    @property
    def name(self) -> str:
        return "cold adapters" if self.cold else "warm adapters"

    def open(self, stage: Stage) -> Work:
        url, shape = stage.server(COLD), stage.shape
        blobs = stage.home(COLD.adapters) / "blobs"
        names = adapter_names(COLD.adapters)
        behind, warm, fresh = names[:BEHIND], names[BEHIND : 2 * BEHIND], names[2 * BEHIND :]

        def work(round_number: int) -> Run:
            probed = fresh[round_number * PROBES :][:PROBES] if self.cold else warm
            if len(probed) < PROBES:
                raise WrongAnswer(f"cold adapters are used up; at most {MOST_ROUNDS - 1} rounds")
            forget_pages(blobs)
            source = Random(f"{self.name} {round_number}")
            return asyncio.run(_beside(url, _asks(shape, behind, source), probed, shape))

        return work


def forget_pages(folder: Path) -> None:
    """Make the next reading of these files one from the disk: drop them from the page cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)  # pages that are not yet written cannot be dropped
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _asks(shape: Shape, models: Sequence[str], source: Random) -> list[Ask]:
    ids = [prompt(shape.prompt_tokens, shape.vocab, source) for _ in models]
    return [Ask(each, model, shape.new_tokens) for each, model in zip(ids, models, strict=True)]


async def _beside(url: str, behind: Sequence[Ask], probed: Sequence[str], shape: Shape) -> Run:
    """The probes' first tokens, and the gaps of the rows behind them while they ran."""
    done, answers = asyncio.Event(), list[Answer]()

    async def keep_busy(caller: Caller, ask: Ask) -> None:
        while not done.is_set():
            answers.append(await caller.answer(ask))

    async with Caller(url) as caller, asyncio.TaskGroup() as group:
        for ask in behind:
            group.create_task(keep_busy(caller, ask))
        await asyncio.sleep(0.2)  # until the rows are decoding
        begun = time.perf_counter()
        source = Random(str(probed))
        probes = [
            await caller.answer(Ask(prompt(shape.prompt_tokens, shape.vocab, source), model, 2))
            for model in probed
        ]
        ended = time.perf_counter()
        done.set()
    for answer in (*probes, *answers):
        if answer.error:
            raise WrongAnswer(f"{answer.model}: {answer.error}")
    return _figures(probes, answers, begun, ended)


def _figures(
    probes: Sequence[Answer], answers: Sequence[Answer], begun: float, ended: float
) -> Run:
    gaps = [
        later - earlier
        for answer in answers
        for earlier, later in zip(answer.arrivals, answer.arrivals[1:], strict=False)
        if begun <= later <= ended
    ]
    first = [answer.first_token_s for answer in probes]
    if not gaps:
        raise WrongAnswer("no row behind the probes was decoding while they ran")
    return Run(
        {
            "first_token_s": quantile(first, 0.5),
            "first_token_p95_s": quantile(first, TAIL),
            "between_tokens_s": quantile(gaps, 0.5),
            "between_tokens_p95_s": quantile(gaps, TAIL),
        }
    )
