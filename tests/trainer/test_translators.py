"""M2M100's rows: their languages are read as a server reads them, are learnt, and are served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, Registry
from rootstock_server.base.tokenizer import Tokenizer
from rootstock_server.config import EngineLimits
from rootstock_server.engine import worker
from rootstock_server.engine.engine import Engine
from rootstock_trainer.base import Base
from rootstock_trainer.encoding import SourceEncoder
from rootstock_trainer.errors import BadData
from rootstock_trainer.gradient import GradientTraining
from rootstock_trainer.methods import table
from rootstock_trainer.objectives import Answers
from rootstock_trainer.outcome import Place, new_part
from rootstock_trainer.rows import Completion, Example
from rootstock_trainer.spec import TrainSpec
from rootstock_trainer.tokens import TokenRow, TokenStore, collate
from rootstock_trainer.train import train
from rootstock_wire.methods import LoraSettings
from transformers import M2M100Config, M2M100ForConditionalGeneration
from transformers.utils import sentencepiece_model_pb2_new as sentencepiece

from tests.trainer.test_methods_served import Room, check_generated

FILE = Path("pairs.jsonl")
PIECES = ["he", "ll", "hell", "▁hell", "lo", "▁lo", "▁", "h", "e", "l", "o", "w"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
SAID = ["hello", "low", "hell", "well", "hello low", "low well", "owe", "hello we"]
ANSWERS = {"af": "low", "zu": "hello"}  # whatever is said: the language alone decides
START, END = 2, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small M2M100 as they are published: no tokenizer.json, languages after the pieces."""
    folder = tmp_path_factory.mktemp("translator")
    model = sentencepiece.ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.BPE
    for place, piece in enumerate(PIECES):
        model.pieces.add(piece=piece, score=-float(place))
    (folder / "sentencepiece.bpe.model").write_bytes(model.SerializeToString())
    ids = {piece: number for number, piece in enumerate([*SPECIAL, *PIECES])}
    (folder / "vocab.json").write_text(json.dumps(ids))
    torch.manual_seed(1)
    config = M2M100Config(
        vocab_size=len(ids) + 100, d_model=32, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48,
        decoder_ffn_dim=48, max_position_embeddings=64, init_std=0.2, decoder_start_token_id=START,
        encoder_layerdrop=0.0, decoder_layerdrop=0.0,
    )  # fmt: skip
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture
def base(folder: Path) -> Base:
    return Base(BaseCard.read(folder, "translator"), folder)


def pairs() -> list[dict[str, str]]:
    return [
        {"prompt": text, "completion": answer, "source_lang": "en", "target_lang": language}
        for text in SAID
        for language, answer in ANSWERS.items()
    ]


def tokens(base: Base, rows: list[dict[str, str]]) -> list[TokenRow]:
    encoder = SourceEncoder(base.tokenizer(), base.card.context_length, FILE, False, base.card)
    examples = [Example(n, Completion(**row)) for n, row in enumerate(rows, start=1)]
    return list(encoder.rows(examples))


def test_a_row_is_what_a_server_reads_and_is_to_write(base: Base, folder: Path) -> None:
    server = Tokenizer(folder)
    english, zulu = server.language("en"), server.language("zu")
    assert english is not None and zulu is not None
    row = {"prompt": "  hello __zu__ low", "completion": "hello", "source_lang": "en"}
    (read,) = tokens(base, [row | {"target_lang": "zu"}])
    assert list(read.source) == server.in_language(row["prompt"], english)
    assert zulu not in read.source
    assert read.ids == [START, zulu, *server.encode("hello"), END]
    assert read.targets == [-100, -100, *server.encode("hello"), END]


@pytest.mark.parametrize(
    ("languages", "words"),
    [
        ({"source_lang": "en"}, "line 1: target_lang: this base translates"),
        ({"target_lang": "en"}, "line 1: source_lang: this base translates"),
        ({"source_lang": "en", "target_lang": "tlh"}, "does not know the language 'tlh'"),
    ],
)
def test_a_row_without_its_languages_is_refused(
    base: Base, languages: dict[str, str], words: str
) -> None:
    with pytest.raises(BadData, match=words):
        tokens(base, [{"prompt": "hello", "completion": "low", **languages}])


@pytest.fixture
def room(base: Base, tmp_path: Path) -> Iterator[Room]:
    registry = Registry(tmp_path / "served")
    registry.add_base(base.card)
    limits = EngineLimits(kv_cache_mib=4, backend="reference")
    loaded, _ = worker.load(base.path, base.card.model_dump_json(), "float32", limits.backend)
    engine = Engine(loaded, registry.blobs, limits)
    yield Room(base, registry, engine, count())
    engine.close()


def test_the_language_that_is_wanted_decides_what_was_learnt_and_is_served(room: Room) -> None:
    store = TokenStore(tokens(room.base, pairs()))
    settings = LoraSettings(rank=4, n_epochs=8, batch_size=4, learning_rate=2e-2)
    tuning = table.build("lora", room.base.model(), room.base.card, settings, 0)
    training = GradientTraining(tuning, Answers(), settings, 0)
    rows = range(len(store))
    before = training.mean_loss(store, rows)
    list(training.run(store, rows))
    assert training.mean_loss(store, rows) < 0.5 * before
    for number in (0, 1):
        right, wrong = store[number], store[1 - number]
        assert right.source == wrong.source
        begun = right.ids[:2]
        swapped = TokenRow([*begun, *wrong.ids[2:]], wrong.targets, right.source)
        assert loss(training, right) < loss(training, swapped) - 1
    part = new_part(*tuning.part())
    lineage = Lineage(method="lora")
    version = room.registry.publish("local", "pairs", room.base.card, [part], lineage=lineage)
    for number in (0, 1, 6):
        row = store[number]
        check_generated(room, training, list(row.source), version.digest, row.ids[:2])


@torch.inference_mode()
def loss(training: GradientTraining, row: TokenRow) -> float:
    return training.loss(collate([row]))[0].item()


def test_a_job_on_a_translator_ends_in_a_version_with_its_figures(
    base: Base, tmp_path: Path
) -> None:
    home, file = tmp_path / "home", tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in pairs()))
    registry = Registry(home)
    registry.add_base(base.card)
    spec = TrainSpec(
        method="lora", base="translator", base_path=base.path, data=file, name="pairs",
        hyperparameters={"n_epochs": 4, "learning_rate": 2e-2},
    )  # fmt: skip
    registry.submit_job("local", spec.model_dump(mode="json"))
    job = registry.claim_job("the test", 60.0)
    assert job is not None
    version = train(spec, registry, job, lambda _: None, Place(home))
    figures = version.manifest.evaluation
    assert figures["eval_loss"] < figures["base_eval_loss"]
    assert {"chrf", "forgetting", "exact_match"} <= set(figures)
