"""What is measured: the models' shapes, the requests, and what a system tells about a run.

Refuses to know which systems answer the requests and how they are timed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from rootstock_cli.bench.load import Load
from rootstock_cli.bench.report import TAIL, quantile
from rootstock_cli.bench.traffic import Ask, by_power_law, prompt

BASE_NAME = "bench"  # what our server and vLLM call the base
RANKS = (8, 16)  # of the adapters, in turn
ADAPTERS = 32  # as many as two waves of 16 requests, so that all of a run can be different
SEED = 0

Mode = Literal["base", "same", "mixed", "power law"]
MODES: dict[Mode, str] = {
    "base": "base only",
    "same": "one adapter",
    "mixed": "all different",
    "power law": "power law",
}
ZIPF = 1.0  # of mode "power law"


@dataclass(frozen=True)
class Shape:
    """A Llama of these sizes, with an output embedding of its own, and the requests it gets."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int
    waves: int  # requests of one timed run, as a multiple of the concurrency
    least_requests: int  # of one timed run
    prompt_tokens: int = 64
    new_tokens: int = 64
    many: int = 1000  # adapters of the scenario with many
    dtype: str = "bfloat16"

    @property
    def kv_width(self) -> int:
        return self.hidden // self.heads * self.kv_heads

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of each linear of a layer, by its path in the layer."""
        return {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (self.hidden, self.kv_width),
            "self_attn.v_proj": (self.hidden, self.kv_width),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.hidden, self.ffn),
            "mlp.up_proj": (self.hidden, self.ffn),
            "mlp.down_proj": (self.ffn, self.hidden),
        }

    def requests(self, concurrency: int) -> int:
        return max(self.least_requests, self.waves * concurrency)


SHAPES = {
    shape.name: shape
    for shape in (
        # 124.7 million parameters.
        Shape("S", 768, 12, 12, 4, 2048, 32000, waves=2, least_requests=4),
        # TinyLlama-1.1B's sizes.
        Shape("M", 2048, 22, 32, 4, 5632, 32000, waves=1, least_requests=1),
        # Proves that a scenario runs; its figures mean nothing.
        Shape(
            "tiny", 64, 2, 4, 2, 128, 512, waves=1, least_requests=2,
            prompt_tokens=8, new_tokens=8, many=40,
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """How a figure is named and shown: its value times `scale`, with `digits` after the point."""

    title: str
    scale: float = 1.0
    digits: int = 0


METRICS = {
    "tokens_per_s": Metric("tokens/s"),
    "texts_per_s": Metric("texts/s"),
    "seconds": Metric("ms per pass", 1e3, 2),
    "job_steps_per_s": Metric("the job's steps/s", 1.0, 2),
    "first_token_s": Metric("first token, ms", 1e3, 1),
    "first_token_p95_s": Metric("first token p95, ms", 1e3, 1),
    "between_tokens_s": Metric("between tokens, ms", 1e3, 1),
    "between_tokens_p95_s": Metric("between tokens p95, ms", 1e3, 1),
}


@dataclass(frozen=True)
class Run:
    """What one system did in one run: figures by the names of METRICS."""

    figures: Mapping[str, float]


class WrongAnswer(Exception):
    """A system did not do the work it was timed for, so that its time means nothing."""


class Absent(Exception):
    """A system is not to be had here. The message says why, and how to have it."""


def adapter_names(count: int) -> list[str]:
    """The most popular first."""
    return [f"a{number:04}" for number in range(count)]


def asks(shape: Shape, mode: Mode, count: int, round_number: int, adapters: int) -> list[Ask]:
    """`count` requests; every system of a round gets the same ones.

    In mode `mixed` neighbours never share an adapter: request i has adapter i.
    """
    source = Random(f"{SEED} {mode} {count} {round_number}")
    if mode == "power law":
        models = by_power_law(adapter_names(adapters), ZIPF, count, source)
    else:
        names = adapter_names(adapters)
        turns = {"base": [BASE_NAME], "same": names[:1], "mixed": names}[mode]
        models = [turns[number % len(turns)] for number in range(count)]
    return [
        Ask(prompt(shape.prompt_tokens, shape.vocab, source), model, shape.new_tokens)
        for model in models
    ]


def run_of(load: Load, work: Sequence[Ask]) -> Run:
    """The figures of a load that answered all of `work`. Raises WrongAnswer where it did not."""
    for words, count in load.errors.most_common(1):
        raise WrongAnswer(f"{count} of {len(work)} requests failed: {words}")
    wanted = sum(ask.new_tokens for ask in work)
    if load.tokens != wanted:
        raise WrongAnswer(f"{load.tokens} tokens came, not {wanted}")
    digests = {answer.digest for answer in load.answers} - {""}
    models = len({ask.model for ask in work})
    if digests and len(digests) != models:
        raise WrongAnswer(f"{len(digests)} versions answered where {models} were asked")
    return streamed(load.tokens / load.seconds, load.first_token_s, load.between_tokens_s)


def streamed(tokens_per_s: float, first: Sequence[float], between: Sequence[float]) -> Run:
    """A run's figures from its speed and from the times of its tokens, in seconds."""
    figures = {"tokens_per_s": tokens_per_s}
    for name, values in (("first_token", first), ("between_tokens", between)):
        figures[f"{name}_s"] = quantile(values, 0.5)
        figures[f"{name}_p95_s"] = quantile(values, TAIL)
    return Run(figures)
