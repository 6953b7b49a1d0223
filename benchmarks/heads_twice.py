"""Two heads on one set of texts, one job after the other: `python -m benchmarks.heads_twice`.

The first job embeds the texts, the second finds them embedded. Times are the worker's own: of its
stages, as it told them, and of its whole hold on the job. Refuses to know how heads are trained.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from statistics import mean

from rootstock_adapters.base_card import BaseCard
from rootstock_cli.bench.origin import origin
from rootstock_cli.demo.scribe import Scribe
from rootstock_cli.shipped import find_base
from rootstock_registry import Job, Registry
from rootstock_trainer.launch import Worker, claimant
from rootstock_trainer.lease import LEASE_S
from rootstock_trainer.progress import Progress
from rootstock_trainer.spec import TrainSpec

RESULTS = Path(__file__).parent / "results"
TENANT = "local"
COLUMNS = ("sentiment", "type")
NEUTRAL = ("neutral", "feedback")
OPINIONS = {
    "Positive": ("positive", "praise"),
    "Negative": ("negative", "complaint"),
    "Mixed": ("mixed", "feedback"),
}
WISH = (
    "[I wish|It would help if|Please see to it that] the {kind} [came with|had] {feature}"
    "[, as others do|, my old one had it|]. "
    "[Asked in {town}|Said {weekday} in {town}|From {place}]."
)


@dataclass(frozen=True)
class Head:
    """One job as its worker saw it, in seconds."""

    column: str
    stages: dict[str, float]  # from reading to publishing, in their order
    held: float  # from the claim's first heartbeat: imports, too
    accuracy: float
    note: str  # what became of the texts

    @property
    def worked(self) -> float:
        return sum(self.stages.values())


def texts(seed: int) -> Iterator[tuple[str, str, str]]:
    """Endless different texts about an invented shop's products, with sentiment and type."""
    scribe, seen = Scribe(random.Random(seed)), set[str]()
    while True:
        if scribe.likely(0.25):
            text, labels = scribe.say(WISH, scribe.product()), NEUTRAL
        else:
            text, verdict, _ = scribe.review()
            labels = OPINIONS[verdict.partition(".")[0]]
        if text not in seen:
            seen.add(text)
            yield text, *labels


def write(file: Path, rows: int, seed: int) -> float:
    """The rows as CSV; returns the mean number of words of a text."""
    made = list(islice(texts(seed), rows))
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", *COLUMNS])
        writer.writerows(made)
    return mean(len(text.split()) for text, *_ in made)


def run(registry: Registry, home: Path, spec: TrainSpec, threads: int) -> Head:
    """One job in a worker process of its own. Raises RuntimeError where it fails."""
    submitted = registry.submit_job(TENANT, spec.model_dump(mode="json"))
    job = registry.claim_job(claimant(), LEASE_S, submitted.id)
    assert job is not None
    Worker(home, job, {"OMP_NUM_THREADS": str(threads)}).close(registry)
    ended = registry.job(job.id)
    if ended.version_digest is None:
        raise RuntimeError(f"the head on {spec.label_column} failed: {ended.error}")
    progress = Progress.from_row(ended.progress)
    figures = registry.version(ended.version_digest).manifest.evaluation
    return Head(
        spec.label_column,
        stages(registry, ended),
        progress.seconds,
        figures["accuracy"],
        progress.notes[0],
    )


def stages(registry: Registry, job: Job) -> dict[str, float]:
    """How long each stage took, by when the worker told of it and of the next."""
    told = [
        (event.data["stage"], event.created_at)
        for event in reversed(registry.job_events(TENANT, job.id))
        if event.data and "stage" in event.data
    ]
    return {stage: (after - begun).total_seconds() for (stage, begun), (_, after) in pairwise(told)}


def lines(heads: Sequence[Head], what: str) -> list[str]:
    """The figures as Markdown."""
    first, second = heads
    every = list(dict.fromkeys(stage for head in heads for stage in head.stages))
    rows = [
        f"| {head.column} | "
        + " | ".join(f"{head.stages[s]:.2f}" if s in head.stages else "" for s in every)
        + f" | {head.worked:.2f} | {head.held:.1f} | {head.accuracy:.3f} |"
        for head in heads
    ]
    return [
        f"# Two heads on the same texts: {what}",
        "",
        f"| head | {' | '.join(every)} | together, s | with imports, s | accuracy |",
        "| --- |" + " --- |" * (len(every) + 3),
        *rows,
        "",
        *(f"- {head.column}: {head.note}" for head in heads),
        f"- the second head took {ratio(first.worked, second.worked):.1f} times less than the "
        f"first, its embedding included; {ratio(first.held, second.held):.1f} times less with the "
        "worker's imports",
        "",
    ]


def ratio(first: float, second: float) -> float:
    return first / max(second, 1e-3)


def measure(base: str, rows: int, threads: int, seed: int) -> tuple[list[Head], float]:
    """Both heads, and the mean number of words of a text."""
    source = find_base(base)
    with tempfile.TemporaryDirectory(prefix="rootstock-heads-") as folder:
        home, file = Path(folder) / "home", Path(folder) / "texts.csv"
        words = write(file, rows, seed)
        registry = Registry(home)
        registry.add_base(BaseCard.read(source.path, source.name))
        common = {"method": "head", "base": source.name, "base_path": source.path, "data": file}
        heads = [
            run(
                registry,
                home,
                TrainSpec.parse({**common, "name": column, "label_column": column}),
                threads,
            )
            for column in COLUMNS
        ]
        registry.close()
    return heads, words


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.heads_twice", description=__doc__)
    parser.add_argument("--base", default="minilm")
    parser.add_argument("--rows", type=int, default=10_000, help="different texts")
    parser.add_argument("--threads", type=int, default=1, help="a job beside a server has one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    heads, words = measure(options.base, options.rows, options.threads, options.seed)
    what = (
        f"{options.base}, {options.rows:,} texts of {words:.0f} words, {options.threads} thread(s)"
    )
    text = "\n".join(lines(heads, what))
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "heads_twice.md").write_text(text)
    own = ("--base", options.base, "--rows", options.rows, "--threads", options.threads)
    command = ["python", "-m", "benchmarks.heads_twice", *map(str, own), "--seed"]
    document = {
        "what": what,
        "origin": origin([*command, str(options.seed)]),
        "heads": [asdict(head) for head in heads],
        "ratio": ratio(heads[0].worked, heads[1].worked),
        "ratio_with_imports": ratio(heads[0].held, heads[1].held),
    }
    (options.out / "heads_twice.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
