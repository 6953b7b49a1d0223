"""Every method on the demo's decoder and on MiniLM, as users have it: the openai SDK submits
the job, the sidecar runs it, the server serves its version. What is served is what the trainer has.

Not collected by `pytest`: `make soak` names this file. It takes minutes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.op import classify, readout
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.kinds import parse_spec
from rootstock_adapters.prompt.spec import PromptSpec
from rootstock_cli.demo import world
from rootstock_cli.private_server import private_server
from rootstock_cli.shipped import DEMO_BASE, find_base
from rootstock_client import Client
from rootstock_registry import Registry, Version
from rootstock_trainer import gradient_run
from rootstock_trainer.answering import question
from rootstock_trainer.base import Base
from rootstock_trainer.data import open_rows
from rootstock_trainer.encoding import ChatEncoder
from rootstock_trainer.gradient import GradientTraining
from rootstock_trainer.inputs import localized
from rootstock_trainer.methods import prompt, table
from rootstock_trainer.objectives import Labels
from rootstock_trainer.outcome import new_part
from rootstock_trainer.rows import Chat, Example, Message
from rootstock_trainer.spec import TrainSpec
from rootstock_trainer.tokens import TokenRow, collate
from rootstock_trainer.tuning import Tuning, Untouched, parameter_count
from rootstock_wire.methods import GradientSettings, to_message
from safetensors.torch import load
from torch import Tensor

from tests.e2e.test_fine_tuning_sdk import follow

TOLERANCE = 1e-4
SEEN = 20  # as many of a token's alternatives as the wire has
SURVEY = DEMO_BASE.parent / "survey.csv"
LETTERS = [row["messages"][0]["content"] for row in world.cheerful_replies(3, seed=99)]
TEXTS = [
    "The parcel was late and nobody answered.",
    "A lovely place, thank you all!",
    "It is blue.",
]
SHORT = {"n_epochs": 3, "batch_size": 4}
DECODER = {
    "prompt": {"system": "Answer in one sentence."},
    "few-shot": {"shots": 1, "candidates": 2},
    "lora": SHORT, "rslora": SHORT, "dora": SHORT, "ia3": SHORT, "soft_prompt": SHORT,
    "prefix": SHORT, "bottleneck": SHORT, "norms": SHORT, "top-k": SHORT, "full": SHORT,
}  # fmt: skip
ENCODER = {
    "head": {}, "lora": SHORT, "rslora": SHORT, "dora": SHORT, "ia3": SHORT, "soft_prompt": SHORT,
    "bottleneck": SHORT, "bitfit": SHORT, "norms": SHORT, "top-k": SHORT, "full": SHORT,
}  # fmt: skip


class House(NamedTuple):
    """A server with both bases, its registry, and what was uploaded to it."""

    url: str
    home: Path
    registry: Registry
    sdk: openai.OpenAI
    bases: dict[str, Base]
    files: dict[str, str]

    def trained(self, base: str, method: str, hyperparameters: dict[str, Any]) -> tuple[Any, Any]:
        """The ended job as the SDK sees it, and its spec as its worker read it."""
        submitted = self.sdk.fine_tuning.jobs.create(
            model=base,
            training_file=self.files[base],
            suffix=f"{base}-{method.replace('_', '-')}",
            seed=1,
            extra_body={"method": to_message(method, hyperparameters)},
        )
        statuses = follow(self.sdk, submitted.id, 240.0)
        job = self.sdk.fine_tuning.jobs.retrieve(submitted.id)
        assert statuses[-1] == "succeeded", job.error
        row = self.registry.job(submitted.id)
        return job, TrainSpec.parse(localized(self.registry, self.home, row))

    def losses(self, job: str) -> list[float]:
        events = list(self.sdk.fine_tuning.jobs.list_events(job, limit=100))[::-1]
        return [e.data["train_loss"] for e in events if e.type == "metrics"]  # type: ignore[index]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    torch.set_num_threads(1)  # as the worker beside a server, so that sums are its sums
    home = tmp_path_factory.mktemp("house")
    sources = [find_base("demo"), find_base("minilm")]
    bases = {s.name: Base(BaseCard.read(s.path, s.name), s.path) for s in sources}
    with private_server(home, sources, ("--no-auth", "--dtype", "float32")) as running:
        sdk = openai.OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0)
        rows = {"demo": ("chats.jsonl", chats()), "minilm": ("moods.csv", moods())}
        files = {
            base: sdk.files.create(file=row, purpose="fine-tune").id for base, row in rows.items()
        }
        yield House(running.url, home, Registry(home), sdk, bases, files)


def chats() -> bytes:
    rows = world.cheerful_replies(40, seed=5)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def moods() -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["text", "label"])
    with SURVEY.open(newline="", encoding="utf-8") as stream:
        writer.writerows([r["text"], r["sentiment"]] for r in islice(csv.DictReader(stream), 80))
    return text.getvalue().encode()


def retrained(spec: TrainSpec, base: Base, folder: Path) -> GradientTraining:
    """The same run once more in this process: its model is the trainer's own."""
    settings, rows = spec.settings, open_rows(spec)
    assert isinstance(settings, GradientSettings)
    virtual = int(getattr(settings, "num_virtual_tokens", 0))
    store = gradient_run._stored(spec, settings, base, rows, folder, virtual)
    train, watched = gradient_run._watched(settings, rows, spec.seed)
    objective = gradient_run._objective(base, rows, spec.seed)
    tuning = table.build(spec.method, base.model(), base.card, settings, spec.seed)
    training = GradientTraining(tuning, objective, settings, spec.seed)
    list(training.run(store, train, watched))
    return training


def check_learnt(house: House, job: Any, version: Version, training: GradientTraining) -> None:
    """The loss fell, the version is this training's, and its numbers are as many as it says."""
    losses = house.losses(job.id)
    third = len(losses) // 3
    assert sum(losses[-third:]) < sum(losses[:third]), losses
    own = [new_part(*part) for part in training.parts()]
    stored = [house.registry.blobs.get(part.blob) for part in version.manifest.parts]
    for mine, theirs in zip((load(part.data) for part in own), map(load, stored), strict=True):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[name], atol=1e-5, rtol=1e-5)
    formula = sum(parameter_count(part.spec, training.tuning.card) for part in own)
    assert version.manifest.evaluation["trained_parameters"] == formula


@torch.inference_mode()
def check_said(house: House, model: str, tuning: Tuning, letters: Sequence[list[int]]) -> float:
    """The likeliest next tokens of the served model have the trainer's probabilities."""
    worst = 0.0
    for letter, ids in zip(LETTERS, letters, strict=True):
        answer = house.sdk.chat.completions.create(
            model=model, messages=[{"role": "user", "content": letter}], max_tokens=1,
            temperature=0, logprobs=True, top_logprobs=SEEN,
        )  # fmt: skip
        assert answer.choices[0].logprobs is not None and answer.choices[0].logprobs.content
        seen = answer.choices[0].logprobs.content[0].top_logprobs
        served = torch.tensor(sorted((each.logprob for each in seen), reverse=True))
        own = tuning.logits(collate([TokenRow(ids, ids)]))[0, -1].log_softmax(-1)
        worst = max(worst, (own.topk(SEEN).values - served).abs().max().item())
    assert worst < TOLERANCE
    return worst


def check_labelled(house: House, model: str, logits: Tensor, labels: Sequence[str]) -> float:
    """The served probabilities of all labels are those of the trainer's logits [N, labels]."""
    with Client(house.url) as client:
        found = client.classify(TEXTS, [model]).data
    served = torch.tensor([[one.results[0].probs[label] for label in labels] for one in found])
    worst: float = (served.log() - logits.log_softmax(-1)).abs().max().item()
    assert worst < TOLERANCE
    return worst


def asked(base: Base, spec: PromptSpec | None) -> list[list[int]]:
    """The letters' ids up to their answer, as `spec` words them."""
    encoder = ChatEncoder(base.tokenizer(), base.card.context_length, Path("letters"))
    turns = [
        [Message(role="user", content=letter), Message(role="assistant", content="-")]
        for letter in LETTERS
    ]
    rows = [prompt.applied(spec, Example(1, Chat(messages=each))) for each in turns]
    return [question(row).prompt for row in encoder.rows(rows)]


@pytest.mark.parametrize("method", DECODER)
def test_the_decoder(house: House, method: str, tmp_path: Path) -> None:
    base = house.bases["demo"]
    job, spec = house.trained("demo", method, DECODER[method])
    version = house.registry.resolve("local", job.fine_tuned_model)
    if method in ("prompt", "few-shot"):
        words = parse_spec("prompt", version.manifest.parts[0].config)
        assert isinstance(words, PromptSpec)
        tuning: Tuning = Untouched(base.model(), base.card)
        worst = check_said(house, job.fine_tuned_model, tuning, asked(base, words))
    else:
        training = retrained(spec, base, tmp_path)
        check_learnt(house, job, version, training)
        worst = check_said(house, job.fine_tuned_model, training.tuning, asked(base, None))
    print(f"\ndemo, {method}: served and trained differ by {worst:.1e}")


@pytest.mark.parametrize("method", ENCODER)
def test_the_encoder(house: House, method: str, tmp_path: Path) -> None:
    base = house.bases["minilm"]
    job, spec = house.trained("minilm", method, ENCODER[method])
    version = house.registry.resolve("local", job.fine_tuned_model)
    if method == "head":
        (part,) = version.manifest.parts
        figures = version.manifest.evaluation
        assert figures["accuracy"] > figures["majority_accuracy"]
        [(order, features)] = list(base.embed(TEXTS))
        tensors = load(house.registry.blobs.get(part.blob))
        head = parse_spec(part.kind, part.config)
        assert isinstance(head, HeadSpec)
        logits = classify(features[torch.tensor(order).argsort()], readout(head, tensors))
        labels: Sequence[str] = head.labels
    else:
        training = retrained(spec, base, tmp_path)
        check_learnt(house, job, version, training)
        assert isinstance(training.objective, Labels)
        rows = [TokenRow(ids, [0]) for ids in base.text_ids(TEXTS)]
        with torch.inference_mode():
            logits = training.objective.logits(training.tuning, collate(rows, one_label=True))
        labels = training.objective.spec.labels
    worst = check_labelled(house, job.fine_tuned_model, logits, labels)
    print(f"\nminilm, {method}: served and trained differ by {worst:.1e}")
