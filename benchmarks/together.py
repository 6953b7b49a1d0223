"""LoRA runs in one pass against one after another, and one run against PEFT with transformers'
Trainer: `python -m benchmarks.together --base demo`.

Times training alone: no loading, no tokenising, no evaluation. Refuses to know jobs and workers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model
from rootstock_adapters.base_card import BaseCard
from rootstock_cli.bench.origin import origin
from rootstock_trainer.base import Base
from rootstock_trainer.gradient import GradientTraining
from rootstock_trainer.methods import table
from rootstock_trainer.objectives import Answers
from rootstock_trainer.together import Member, Together
from rootstock_trainer.tokens import IGNORED, TokenRow, TokenStore, collate
from rootstock_wire.methods import LoraSettings
from torch import Tensor
from transformers import Trainer, TrainingArguments

from benchmarks.report import Spread
from benchmarks.shapes import make_base
from benchmarks.workload import SHAPES

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "server" / "rootstock_cli" / "demo" / "base"
RANK, BATCH, TOKENS, RATE = 8, 4, 32, 1e-3
Arm = Callable[[], tuple[float, list[Tensor]]]  # seconds, and each trained model's logits


@dataclass(frozen=True)
class Figures:
    """Ratios of neighbours in time, above 1 where ours is faster."""

    seconds: dict[str, Spread]
    together: Spread  # one after another, over together
    trainer: Spread  # the Trainer's one job, over ours alone
    difference: float  # the largest between logits of one job's model, trained in two ways
    largest: float  # of these logits


class Jobs:
    """`count` jobs, each with rows of its own, for `steps` optimiser steps."""

    def __init__(self, base: Base, count: int, steps: int) -> None:
        self._base, self._count, self._steps = base, count, steps
        self._settings = LoraSettings(
            rank=RANK, batch_size=BATCH, n_epochs=1, learning_rate=RATE, warmup_ratio=0.0
        )
        self._stores = [TokenStore(self._rows(number)) for number in range(count)]

    def arms(self) -> Mapping[str, Arm]:
        return {
            "together": self.together,
            "one after another": self.apart,
            "one job": lambda: self._timed([self._ready(0)]),
            "one job, PEFT and Trainer": self.trainer,
        }

    def together(self) -> tuple[float, list[Tensor]]:
        group = Together(self._count)
        members = list(group.members)
        ready = [self._ready(number, member) for number, member in enumerate(members)]
        threads = [
            threading.Thread(target=_in_turn, args=(member, self._train, number, run))
            for number, (member, run) in enumerate(zip(members, ready, strict=True))
        ]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begun, self._logits(ready)

    def apart(self) -> tuple[float, list[Tensor]]:
        return self._timed([self._ready(number) for number in range(self._count)])

    def trainer(self) -> tuple[float, list[Tensor]]:
        model = self._base.decoder()
        linears = sorted({path.rpartition(".")[2] for path in self._base.card.linears})
        config = LoraConfig(r=RANK, lora_alpha=16, target_modules=linears, task_type="CAUSAL_LM")
        rows = [
            {"input_ids": row.ids, "labels": row.targets, "attention_mask": [1] * len(row.ids)}
            for row in self._stores[0][:]
        ]
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder,
                per_device_train_batch_size=BATCH,
                max_steps=self._steps,
                learning_rate=RATE,
                lr_scheduler_type="cosine",
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            )
            adapted = get_peft_model(model, config)
            trainer = Trainer(adapted, arguments, train_dataset=rows)
            begun = time.perf_counter()
            trainer.train()
            return time.perf_counter() - begun, []

    def _timed(self, ready: Sequence[GradientTraining]) -> tuple[float, list[Tensor]]:
        begun = time.perf_counter()
        for number, run in enumerate(ready):
            self._train(number, run)
        return time.perf_counter() - begun, self._logits(ready)

    def _train(self, number: int, run: GradientTraining) -> None:
        for _ in run.run(self._stores[number], range(len(self._stores[number]))):
            pass

    @torch.no_grad()
    def _logits(self, ready: Sequence[GradientTraining]) -> list[Tensor]:
        """Of every job's first rows. Its parameters are no measure: where a gradient is all but
        zero, AdamW makes a whole step of its last bit."""
        batches = [collate(store[:BATCH]) for store in self._stores]
        return [run.tuning.logits(batch) for run, batch in zip(ready, batches, strict=False)]

    def _ready(self, number: int, member: Member | None = None) -> GradientTraining:
        base = self._base
        model = base.decoder() if member is None else member.model(base)
        tuning = table.build("lora", model, base.card, self._settings, number)
        if member is not None:
            tuning = member.share(tuning)
        return GradientTraining(tuning, Answers(), self._settings, number)

    def _rows(self, number: int) -> list[TokenRow]:
        generator = torch.Generator().manual_seed(number)
        shape = (self._steps * BATCH, TOKENS)
        ids = torch.randint(10, self._base.card.vocab_size, shape, generator=generator).tolist()
        asked = TOKENS // 2
        return [TokenRow(row, [IGNORED] * asked + row[asked:]) for row in ids]


def measure(jobs: Jobs, rounds: int) -> Figures:
    """All arms in turn, `rounds` times after a warm one; neighbours are compared."""
    arms = jobs.arms()
    times: dict[str, list[float]] = {name: [] for name in arms}
    difference = largest = 0.0
    for number in range(rounds + 1):
        made = {}
        for name, arm in arms.items():
            seconds, made[name] = arm()
            if number:
                times[name].append(seconds)
        alone = made["one after another"]
        pairs = zip(made["together"], alone, strict=True)
        difference = max(difference, *((a - b).abs().max().item() for a, b in pairs))
        largest = max(largest, *(each.abs().max().item() for each in alone))
    return Figures(
        {name: Spread.of(each) for name, each in times.items()},
        _ratio(times["one after another"], times["together"]),
        _ratio(times["one job, PEFT and Trainer"], times["one job"]),
        difference,
        largest,
    )


def lines(figures: Figures, what: str) -> list[str]:
    """The figures as Markdown."""
    rows = [f"| {name} | {each.text(2)} |" for name, each in figures.seconds.items()]
    return [
        f"# LoRA jobs together: {what}",
        "",
        "| run | seconds, median (least-most) |",
        "| --- | --- |",
        *rows,
        "",
        f"- together, against one after another: {figures.together.text(2)} times as fast",
        f"- one job, against PEFT and Trainer: {figures.trainer.text(2)} times as fast",
        "- largest difference between logits of one job's model, trained in either way: "
        f"{figures.difference:.1e}, where logits reach {figures.largest:.1f}",
        "",
    ]


def _in_turn(
    member: Member,
    train: Callable[[int, GradientTraining], None],
    number: int,
    run: GradientTraining,
) -> None:
    with member.turn():
        train(number, run)


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> Spread:
    return Spread.of([one / other for one, other in zip(theirs, ours, strict=True)])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.together", description=__doc__)
    parser.add_argument("--base", choices=("demo", *SHAPES), default="demo")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=40, help="of each job")
    parser.add_argument("--rounds", type=int, default=5, help="that count, after a warm one")
    parser.add_argument("--threads", type=int, default=1, help="a job beside a server has one")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        known = options.base in SHAPES
        path = make_base(SHAPES[options.base], Path(folder)) if known else DEMO
        base = Base(BaseCard.read(path, options.base), path)
        figures = measure(Jobs(base, options.jobs, options.steps), options.rounds)
    size = f"{options.jobs} jobs, {options.steps} steps each, {options.threads} thread(s)"
    what = f"{options.base}, batch {BATCH} of {TOKENS} tokens, rank {RANK}, {size}"
    text = "\n".join(lines(figures, what))
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"together_{options.base}.md").write_text(text)
    own = ("--base", options.base, "--jobs", options.jobs, "--steps", options.steps)
    own += ("--rounds", options.rounds, "--threads", options.threads)
    command = ["python", "-m", "benchmarks.together", *map(str, own)]
    document = {"what": what, "origin": origin(command), "figures": asdict(figures)}
    place = options.out / f"together_{options.base}.json"
    place.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
