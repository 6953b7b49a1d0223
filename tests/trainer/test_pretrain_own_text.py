"""Pre-training on a user's own text: any script, any of the file kinds, interrupted or not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow
import pytest
import torch
from pyarrow import parquet
from rootstock_adapters.base_card import BaseCard
from rootstock_server.base.tokenizer import Tokenizer
from rootstock_trainer import pretrain_data, pretrain_files, pretrain_loop
from rootstock_trainer.checkpoints import Checkpoints, State
from rootstock_trainer.pretrain import pretrain
from rootstock_trainer.pretrain_settings import PretrainError, PretrainReport, PretrainSettings
from transformers import AutoTokenizer, LlamaForCausalLM

TINY = PretrainSettings(
    parameters=60_000,
    vocabulary=500,
    context=32,
    batch_tokens=256,
    steps=60,
    learning_rate=1e-2,
    dtype="float32",
)
WHO = ["আমার মা", "আমাদের শিক্ষক", "পাশের বাড়ির ছেলে", "দোকানের মালিক", "ছোট বোন"]
WHEN = ["সকালে", "বিকেলে", "প্রতিদিন", "গতকাল", "শীতকালে"]
DOES = ["নদীর ধারে হাঁটেন", "গরম চা খান", "পুরোনো বই পড়েন", "বাগানে কাজ করেন", "গান শোনেন"]
WHY = ["কারণ তাঁর ভালো লাগে", "যদিও বৃষ্টি পড়ে", "তারপর বাড়ি ফেরেন"]


def bengali() -> list[str]:
    """Short sentences from a small grammar, every one different."""
    return [
        f"{who} {when} {does}, {why}।"
        for who, when, does, why in itertools.product(WHO, WHEN, DOES, WHY)
    ]


@pytest.fixture(scope="module")
def own_text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PretrainReport]:
    """A base from a folder with one file of each kind."""
    folder = tmp_path_factory.mktemp("own")
    texts = bengali()
    data = folder / "data"
    (data / "deeper").mkdir(parents=True)
    (data / "lines.txt").write_text("\n".join(texts[:200]) + "\n", encoding="utf-8")
    parts = ["\n".join(texts[i : i + 2]) for i in range(200, 300, 2)]
    (data / "deeper" / "parted.txt").write_text("\n\n".join(parts), encoding="utf-8")
    rows = [{"text": text} for text in texts[300:340]]
    parquet.write_table(pyarrow.Table.from_pylist(rows), data / "rows.parquet")
    lines = [json.dumps({"text": text}) for text in texts[340:]]
    (data / "rows.jsonl").write_text("\n".join(lines))
    (data / "notes.md").write_text("not data")
    out = folder / "base"
    return out, pretrain([data], out, TINY)


def test_a_folder_of_bengali_becomes_a_base_that_can_be_served(
    own_text: tuple[Path, PretrainReport],
) -> None:
    out, report = own_text
    assert report.documents == 200 + 50 + 40 + 35
    assert set(report.data) == {
        "data/lines.txt", "data/deeper/parted.txt", "data/rows.parquet", "data/rows.jsonl",
    }  # fmt: skip
    assert report.model.nats_per_token < report.unigram.nats_per_token - 1
    card = BaseCard.read(out, "bangla")
    assert card.task == "generate" and card.context_length == TINY.context
    text = bengali()[7]
    ids = Tokenizer(out).encode(text)
    tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    assert tokenizer.decode(ids[1:]) == text
    model = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32)
    made = model.generate(
        torch.tensor([ids[:8]]), attention_mask=torch.ones(1, 8), max_new_tokens=12,
        max_length=None, do_sample=False,
    )  # fmt: skip
    written = tokenizer.decode(made[0].tolist()[1:])
    assert written.startswith(tokenizer.decode(ids[1:8]))
    assert any("\u0980" <= letter <= "\u09ff" for letter in written)


def test_words_with_vowel_signs_become_tokens(own_text: tuple[Path, PretrainReport]) -> None:
    """GPT-2's pattern would part "নদীর" before its vowel sign, whatever the data."""
    ids = Tokenizer(own_text[0]).encode("আমার মা প্রতিদিন গান শোনেন")
    assert len(ids) <= 1 + 7


def test_english_is_cut_as_gpt2_cuts_it() -> None:
    rows = [{"text": "It's 12 o'clock,  isn't it? We'll see."}] * 3
    tokenizer = pretrain_data.train_tokenizer(rows, 400, 32)
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("It's 12,  we'll see.")
    spelled = [piece.replace("Ġ", " ") for piece, _ in pieces]
    assert spelled == ["It", "'s", " ", "1", "2", ",", " ", " we", "'ll", " see", "."]


def test_every_fault_is_told_at_once_with_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{oops\n\n{"words": 1}\n')
    table = pyarrow.Table.from_pylist([{"text": "fine"}, {"text": None}])
    parquet.write_table(table, tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_text("no table")
    with pytest.raises(PretrainError) as told:
        pretrain_files.read_rows(pretrain_files.files_of([tmp_path]).values())
    where = [line.strip().partition(": ")[0] for line in str(told.value).splitlines()]
    named = ["a.jsonl, line 2", "a.jsonl, line 4", "b.parquet, row 2", "c.parquet"]
    assert where == [f"{tmp_path}/{each}" for each in named]


def test_files_that_cannot_be_data_are_named(tmp_path: Path) -> None:
    (tmp_path / "essay.pdf").write_text("x")
    with pytest.raises(PretrainError, match=r"essay\.pdf: the name must end in \.jsonl"):
        pretrain_files.files_of([tmp_path / "essay.pdf"])
    with pytest.raises(PretrainError, match="has no file ending in"):
        pretrain_files.files_of([tmp_path])
    latin = tmp_path / "latin.txt"
    latin.write_bytes("fine\ncafé\n".encode("latin-1"))
    with pytest.raises(PretrainError, match=r"latin\.txt, line 2: not UTF-8"):
        pretrain_files.read_rows([latin])


def test_a_document_over_the_context_is_learnt_to_its_end() -> None:
    documents = [np.arange(10), np.arange(100, 165), np.arange(200, 233)]
    cut = pretrain_data.pieces(documents, 32)
    assert [len(piece) for piece in cut] == [10, 32, 32, 32]  # single tokens predict nothing
    assert np.array_equal(np.concatenate(cut[1:3]), np.arange(100, 164))


class _PowerCut(Checkpoints):
    """Loses the machine right after the checkpoint of its third step."""

    def save(self, state: State) -> None:
        super().save(state)
        if state.facts["done"] == 3:
            raise KeyboardInterrupt


def test_a_run_that_was_interrupted_ends_in_the_same_bits(tmp_path: Path) -> None:
    rows = [{"text": text} for text in bengali()[:120]]
    settings = TINY.model_copy(update={"steps": 6})
    tokenizer = pretrain_data.train_tokenizer(rows, settings.vocabulary, settings.context)
    documents = pretrain_data.encode(rows, tokenizer)

    def run(checkpoints: Checkpoints) -> tuple[LlamaForCausalLM, list[int]]:
        torch.manual_seed(0)
        model = LlamaForCausalLM(pretrain_loop.shape(settings, tokenizer))
        chance = np.random.default_rng(1)
        curve = pretrain_loop.train(model, documents, settings, chance, checkpoints)
        return model, [point.step for point in curve]

    whole, steps = run(Checkpoints(tmp_path / "never"))
    with pytest.raises(KeyboardInterrupt):
        run(_PowerCut(tmp_path / "cut", wanted=lambda: True))
    # Another run's checkpoints are not this one's.
    assert Checkpoints(tmp_path / "cut", about="other data").load() is None
    resumed, again = run(Checkpoints(tmp_path / "cut"))
    assert again == steps == [1, 2, 3, 4, 5, 6]
    for name, parameter in whole.state_dict().items():
        assert torch.equal(parameter, resumed.state_dict()[name]), name
