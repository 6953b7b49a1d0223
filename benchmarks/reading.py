"""Arms that read texts: embeddings at a batch size, and heads on one pass.

Refuses to know how the systems do it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from statistics import median
from typing import Literal

from benchmarks import encoders
from benchmarks.scenario import Work
from benchmarks.stage import Stage
from benchmarks.workload import Run, WrongAnswer

System = Literal["rootstock", "sentence-transformers", "onnxruntime"]
OPEN: dict[System, Callable[[Stage], encoders.Embedder]] = {
    "rootstock": encoders.ours,
    "sentence-transformers": encoders.sentence_transformers,
    "onnxruntime": encoders.onnx,
}
WORDS = (
    "the", "form", "was", "filled", "in", "within", "five", "minutes", "but", "nobody", "has",
    "answered", "my", "question", "yet",
)  # fmt: skip
SHORTEST, LONGEST = 3, 100  # words of a text
EMBEDDED, PASSES = 256, 64  # texts and requests of a run


@dataclass(frozen=True)
class Embed:
    """Texts of uneven lengths, `batch` of them at a time."""

    name: System
    batch: int

    def open(self, stage: Stage) -> Work:
        system = OPEN[self.name](stage)
        count = _fewer(stage, EMBEDDED, self.batch)

        def work(round_number: int) -> Run:
            written = texts(count, round_number)
            begun = time.perf_counter()
            for start in range(0, count, self.batch):
                vectors = system.embed(written[start : start + self.batch])
                if len(vectors) != min(self.batch, count - start):
                    raise WrongAnswer(f"{self.name}: {len(vectors)} embeddings came")
            return Run({"texts_per_s": count / (time.perf_counter() - begun)})

        return work


@dataclass(frozen=True)
class Classify:
    """The verdicts of `heads` heads on `batch` texts at a time."""

    heads: int
    batch: int

    @property
    def name(self) -> str:
        return f"{self.heads} heads" if self.heads > 1 else "1 head"

    def open(self, stage: Stage) -> Work:
        system = encoders.ours(stage)
        count = _fewer(stage, PASSES, 1)

        def work(round_number: int) -> Run:
            took = []
            for number in range(count):
                written = texts(self.batch, round_number * count + number)
                begun = time.perf_counter()
                data = system.classify(written, self.heads)
                took.append(time.perf_counter() - begun)
                if any(len(each["results"]) != self.heads for each in data):
                    raise WrongAnswer(f"not {self.heads} verdicts on every text")
            return Run({"seconds": median(took)})

        return work


def texts(count: int, seed: int) -> Sequence[str]:
    """Random words, from SHORTEST to LONGEST of them, every length as likely."""
    source = Random(seed)
    return [
        " ".join(source.choices(WORDS, k=source.randint(SHORTEST, LONGEST))) for _ in range(count)
    ]


def _fewer(stage: Stage, count: int, batch: int) -> int:
    return max(batch, 4) if stage.shape.name == "tiny" else count
