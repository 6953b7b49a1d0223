"""Each method on each kind of base: it learns, and what the engine serves is what was trained.

The engine is the real one, in this process; the trainer's own model is the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_registry import Lineage, Registry
from rootstock_server.config import EngineLimits
from rootstock_server.engine import worker
from rootstock_server.engine.engine import Engine
from rootstock_server.engine.request import (
    Adapter,
    Encode,
    Encoded,
    Event,
    Failed,
    Generate,
    Sampling,
    Token,
)
from rootstock_trainer.base import Base
from rootstock_trainer.encoding import ChatEncoder, LabelEncoder, SourceEncoder
from rootstock_trainer.gradient import GradientTraining
from rootstock_trainer.methods import table
from rootstock_trainer.objectives import Answers, Labels
from rootstock_trainer.outcome import new_part
from rootstock_trainer.rows import Completion, Example, Labelled, Tagged
from rootstock_trainer.tokens import TokenStore, collate
from rootstock_trainer.tuning import parameter_count
from rootstock_wire.methods import GradientSettings, parse_settings
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

FILE = Path("rows.jsonl")
# Learning rates at which twelve steps on weights at random show.
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"rank": 4, "learning_rate": 1e-2},
    "rslora": {"rank": 4, "learning_rate": 1e-2, "target_modules": None},
    "dora": {"rank": 3, "learning_rate": 1e-2},
    "ia3": {"learning_rate": 5e-2},
    "soft_prompt": {"num_virtual_tokens": 5, "learning_rate": 5e-2},
    "prefix": {"num_virtual_tokens": 4, "learning_rate": 5e-2},
    "bottleneck": {"size": 6, "learning_rate": 2e-2},
    "bitfit": {"learning_rate": 3e-2},
    "norms": {"learning_rate": 3e-2},
    "top-k": {"k": 1, "learning_rate": 3e-3},
    "full": {"learning_rate": 3e-3},
}
ON = {
    "generate": [name for name in SETTINGS if name != "bitfit"],  # a Llama has no biases
    "encode": [name for name in SETTINGS if name != "prefix"],
    "text2text": ["lora", "rslora", "dora", "ia3", "bottleneck", "norms", "full"],
}
TARGETS = {"generate": "q_proj,down_proj", "encode": "query,value", "text2text": "q,v,wo"}
CASES = [(task, method) for task, methods in ON.items() for method in methods]


class Room(NamedTuple):
    """One base of each task, trained and served at once."""

    base: Base
    registry: Registry
    engine: Engine
    ids: Iterator[int]

    def ask(self, command: Generate | Encode) -> list[Event]:
        events = list(self.engine.apply(command))
        while not events or (isinstance(events[-1], Token) and not events[-1].finish_reason):
            self.engine.wake()
            events += self.engine.step()
        assert not any(isinstance(event, Failed) for event in events), events
        return events


@pytest.fixture(scope="module")
def encoder_decoder_folder(decoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder-decoder")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(decoder_folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2,
        num_heads=4, n_positions=64, decoder_start_token_id=2, eos_token_id=1, pad_token_id=2,
        relative_attention_num_buckets=8, relative_attention_max_distance=20,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rooms(
    decoder_folder: Path,
    encoder_folder: Path,
    encoder_decoder_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[[str], Room]]:
    folders = {
        "generate": decoder_folder, "encode": encoder_folder, "text2text": encoder_decoder_folder
    }  # fmt: skip
    registry = Registry(tmp_path_factory.mktemp("served"))
    opened: dict[str, Room] = {}

    def room(task: str) -> Room:
        if task not in opened:
            path = folders[task]
            card = BaseCard.read(path, task)
            registry.add_base(card)
            limits = EngineLimits(kv_cache_mib=4, backend="reference")
            base, _ = worker.load(path, card.model_dump_json(), "float32", limits.backend)
            engine = Engine(base, registry.blobs, limits)
            opened[task] = Room(Base(card, path), registry, engine, count())
        return opened[task]

    yield room
    for one in opened.values():
        one.engine.close()


def settings_of(task: str, method: str, **more: Any) -> GradientSettings:
    values = {"n_epochs": 2, "batch_size": 4} | SETTINGS[method] | more
    if "target_modules" in values:
        values["target_modules"] = TARGETS[task]
    settings = parse_settings(method, values)
    assert isinstance(settings, GradientSettings)
    return settings


def answer_rows(base: Base) -> TokenStore:
    things = ["kettle", "lamp", "chair", "mug", "clock", "rug", "fan", "desk"]
    examples = [
        Example(1, Completion(prompt=f"the {thing} is {word}", completion=f" {thing} noted"))
        for thing in things
        for word in ("lovely", "great", "fine")
    ]
    tokenizer, context = base.tokenizer(), base.card.context_length
    if base.card.task == "text2text":
        return TokenStore(SourceEncoder(tokenizer, context, FILE, False, base.card).rows(examples))
    return TokenStore(ChatEncoder(tokenizer, context, FILE).rows(examples))


def label_rows(base: Base) -> TokenStore:
    rows = [
        Labelled(1, f"the {thing} is {word}", (label,))
        for thing in ("kettle", "lamp", "chair", "mug", "clock", "rug")
        for word, label in (("lovely", "good"), ("dull", "bad"), ("great", "good"), ("late", "bad"))
    ]
    encoder = LabelEncoder(base.tokenizer(), base.card.context_length, FILE, True, ("bad", "good"))
    return TokenStore(encoder.rows(rows))


def trained(room: Room, method: str, settings: GradientSettings, objective: Any) -> Any:
    """A run that has learnt something, and its published digest."""
    store = answer_rows(room.base) if isinstance(objective, Answers) else label_rows(room.base)
    tuning = table.build(method, room.base.model(), room.base.card, settings, 0)
    training = GradientTraining(tuning, objective, settings, 0)
    rows = range(len(store))
    before = training.mean_loss(store, rows)
    steps = list(training.run(store, rows))
    after = training.mean_loss(store, rows)
    assert len(steps) == 6 * settings.n_epochs
    assert after < 0.97 * before, (before, after)
    parts = training.parts()
    counted = sum(parameter_count(part.spec, room.base.card) for part in parts)
    assert counted == sum(parameter.numel() for parameter in training.parameters)
    assert counted == sum(t.numel() for part in parts for t in part.tensors.values())
    version = room.registry.publish(
        "local", "one", room.base.card, [new_part(*part) for part in parts],
        lineage=Lineage(method=method),
    )  # fmt: skip
    return training, store, version.digest


@torch.inference_mode()
def check_generated(
    room: Room,
    training: GradientTraining,
    ids: list[int],
    digest: str,
    begun: Sequence[int] | None = None,
) -> None:
    """The engine's probabilities of every token are those of the trainer's own model."""
    card, vocabulary = room.base.card, room.base.card.vocab_size
    start = list(card.decoder_start if begun is None else begun)
    command = Generate(
        id=f"r{next(room.ids)}", prompt_ids=ids + start, source=len(ids) if start else 0,
        adapters=[Adapter(digest)],
        sampling=Sampling(max_tokens=5, temperature=0.0, logprobs=vocabulary, ignore_eos=True),
    )  # fmt: skip
    events = room.ask(command)
    said = [event.token_id for event in events if isinstance(event, Token)]
    row = (start or ids) + said
    batch = collate([new_row(row, ids if start else [])])
    wanted = training.tuning.logits(batch)[0, -1 - len(said) : -1].log_softmax(-1)
    found = torch.full_like(wanted, float("nan"))
    for place, event in enumerate(events):
        assert isinstance(event, Token)
        tokens, values = zip(*event.top_logprobs, strict=True)
        found[place, list(tokens)] = torch.tensor(values)
    assert (found - wanted).abs().max() < 1e-4


def new_row(ids: list[int], source: list[int]) -> Any:
    from rootstock_trainer.tokens import TokenRow

    return TokenRow(ids, ids, source)


@torch.inference_mode()
def check_labelled(room: Room, training: GradientTraining, ids: list[int], digest: str) -> None:
    """The engine's logits of the version's head, behind the version's own pass, are the
    trainer's."""
    command = Encode(
        id=f"r{next(room.ids)}", prompt_ids=ids, adapters=[Adapter(digest)], heads=[digest],
        embed=False,
    )  # fmt: skip
    [answer] = room.ask(command)
    assert isinstance(answer, Encoded)
    objective = training.objective
    assert isinstance(objective, Labels)
    batch = collate([new_row(ids, [])])
    wanted: Tensor = objective.logits(training.tuning, batch)[0]
    found = torch.tensor(answer.heads[0].token_logits or answer.heads[0].logits)
    assert (found - wanted).abs().max() < 1e-4
    assert found.abs().max() > 1e-3


@pytest.mark.parametrize(("task", "method"), CASES)
def test_a_method_learns_and_is_served_as_it_was_trained(
    rooms: Callable[[str], Room], task: str, method: str
) -> None:
    room = rooms(task)
    settings = settings_of(task, method, n_epochs=8 if task == "encode" else 2)
    labels = Labels(room.base.card, ("bad", "good"), per_token=False, seed=0)
    objective = labels if task == "encode" else Answers()
    training, store, digest = trained(room, method, settings, objective)
    for number in (0, 7):
        row = store[number]
        if task == "encode":
            check_labelled(room, training, row.ids, digest)
        else:
            asked = row.source or [i for i, t in zip(row.ids, row.targets, strict=True) if t < 0]
            check_generated(room, training, list(asked), digest)


@pytest.mark.parametrize("method", ["lora", "prefix", "soft_prompt", "full"])
def test_a_decoder_classifies_with_a_head_beside_its_adapter(
    rooms: Callable[[str], Room], method: str
) -> None:
    room = rooms("generate")
    labels = Labels(room.base.card, ("bad", "good"), per_token=False, seed=0)
    training, store, digest = trained(room, method, settings_of("generate", method), labels)
    check_labelled(room, training, store[3].ids, digest)


@pytest.mark.parametrize("method", ["lora", "bottleneck"])
def test_words_are_labelled_one_by_one(rooms: Callable[[str], Room], method: str) -> None:
    room = rooms("encode")
    tags = ("B-thing", "O")
    rows = [
        Tagged(1, ("the", thing, "is", word), ("O", "B-thing", "O", "O"))
        for thing in ("kettle", "lamp", "chair", "mug")
        for word in ("fine", "dull")
    ]
    encoder = LabelEncoder(room.base.tokenizer(), 16, FILE, True, tags)
    store = TokenStore(encoder.rows(rows))
    assert store[0].targets == [-100, 1, 0, 1, 1, -100]
    settings = settings_of("encode", method, n_epochs=6)
    objective = Labels(room.base.card, tags, per_token=True, seed=0)
    tuning = table.build(method, room.base.model(), room.base.card, settings, 0)
    training = GradientTraining(tuning, objective, settings, 0)
    before = training.mean_loss(store, range(8))
    list(training.run(store, range(8)))
    assert training.mean_loss(store, range(8)) < 0.9 * before
    version = room.registry.publish(
        "local", "tagger", room.base.card, [new_part(*part) for part in training.parts()],
        lineage=Lineage(method=method),
    )  # fmt: skip
    check_labelled(room, training, store[0].ids, version.digest)


def test_what_a_base_cannot_take_is_refused_in_words(rooms: Callable[[str], Room]) -> None:
    for task, method, words in (
        ("generate", "bitfit", "no parameters in the scope biases"),
        ("encode", "prefix", "use prompt_tuning"),
        ("text2text", "soft_prompt", "is an encoder-decoder"),
        ("text2text", "top-k", "two stacks"),
    ):
        room = rooms(task)
        with pytest.raises(ArtifactError, match=words):
            table.build(method, room.base.model(), room.base.card, settings_of(task, method), 0)


def test_loras_arithmetic() -> None:
    """A 100 by 100 matrix at rank 10: 2,000 numbers of 10,000."""
    from rootstock_adapters.lora.spec import LoraSpec

    card = BaseCard(
        name="square", fingerprint="sha256:0", model_type="llama", task="generate", hidden_size=100,
        layers=1, vocab_size=10, context_length=10, pooling="last", normalize=True,
        linears={"layers.0.self_attn.q_proj": (100, 100)},
    )  # fmt: skip
    spec = LoraSpec(r=10, lora_alpha=10, target_modules=tuple(card.linears))
    assert parameter_count(spec, card) == 2_000
