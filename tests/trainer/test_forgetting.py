"""The forgetting probe: nothing for an untouched base, something for a changed one, on every kind
of base, with the same arithmetic as transformers' own loss."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_trainer import forgetting
from rootstock_trainer.base import Base
from rootstock_trainer.errors import BadData
from rootstock_trainer.forgetting import ENGLISH, ForgettingProbe, GeneralText, general_text
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

TEXT = GeneralText("a few rows", [{"text": f"the lamp is {word} the rug is fine"} for word in
                                  ("great", "awful", "late", "dull", "fine")])  # fmt: skip


def a_base(folder: Path) -> Base:
    return Base(BaseCard.read(folder, "tiny"), folder)


@pytest.fixture(scope="module")
def masked_folder(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked")
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder)
    tokenizer.add_special_tokens({"mask_token": "[MASK]"})
    tokenizer.save_pretrained(folder)
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=16,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def seq2seq_folder(decoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text2text")
    for file in decoder_folder.glob("tokenizer*"):
        shutil.copy(file, folder)
    entries = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    torch.manual_seed(3)
    config = T5Config(
        vocab_size=entries, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=2, pad_token_id=2, eos_token_id=1,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """The model with every parameter moved a little."""
    torch.manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_a_decoders_loss_is_transformers_own(decoder_folder: Path) -> None:
    base = a_base(decoder_folder)
    probe, model, tokenizer = ForgettingProbe(base, TEXT), base.decoder(), base.tokenizer()
    probe.before(model)
    same = probe.after(model)
    assert same["forgetting"] == 0
    total, tokens = 0.0, 0
    for row in TEXT.rows:
        ids = tokenizer(row["text"], return_tensors="pt")["input_ids"][:, :48]
        total += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        tokens += ids.shape[1] - 1
    assert same["general_loss"] == pytest.approx(total / tokens, rel=1e-5)
    worse = probe.after(shaken(model))
    assert worse["forgetting"] == worse["general_loss"] - worse["base_general_loss"] != 0


def test_an_encoder_without_a_masked_head_is_measured_by_its_drift(encoder_folder: Path) -> None:
    base = a_base(encoder_folder)
    probe, model = ForgettingProbe(base, TEXT), base.backbone()
    probe.before(model)
    assert probe.after(model)["forgetting"] == pytest.approx(0, abs=1e-6)
    figures = probe.after(shaken(model))
    assert 0 < figures["forgetting"] == figures["general_embedding_drift"] <= 2
    assert "1 - cosine" in probe.note


def test_an_encoder_with_a_masked_head_is_measured_by_its_loss(masked_folder: Path) -> None:
    base = a_base(masked_folder)
    probe, model = ForgettingProbe(base, TEXT), base.backbone()
    probe.before(model)
    same = probe.after(model)
    assert same["forgetting"] == 0 and same["general_masked_loss"] > 0
    assert probe.after(shaken(model))["forgetting"] != 0
    assert "per masked token" in probe.note


def test_an_encoder_decoder_goes_on_with_a_text(seq2seq_folder: Path) -> None:
    base = a_base(seq2seq_folder)
    model = T5ForConditionalGeneration.from_pretrained(seq2seq_folder).eval()
    probe = ForgettingProbe(base, TEXT)
    probe.before(model)
    assert probe.after(model)["forgetting"] == 0
    assert probe.after(shaken(model))["forgetting"] != 0
    assert "second half" in probe.note


def test_a_base_brings_its_own_text_and_a_file_comes_before_it(
    decoder_folder: Path, tmp_path: Path
) -> None:
    base = a_base(decoder_folder)
    assert general_text(base).name == "general English"
    folder = tmp_path / "own"
    shutil.copytree(decoder_folder, folder)
    row = {"messages": [{"role": "user", "content": "the lamp is late"}]}
    (folder / "held-out.jsonl").write_text(json.dumps(row) + "\n")
    own = a_base(folder)
    assert own.card.fingerprint == base.card.fingerprint
    assert general_text(own).rows == [row]
    assert len(ForgettingProbe(own, general_text(own))._ids) == 1
    assert general_text(own, ENGLISH).name == "english.jsonl"


def test_general_text_that_cannot_be_used_is_named(decoder_folder: Path, tmp_path: Path) -> None:
    base = a_base(decoder_folder)
    file = tmp_path / "general.jsonl"
    file.write_text('{"text": "fine"}\n{"words": "?"}\n')
    with pytest.raises(BadData, match="line 2: neither text nor messages"):
        general_text(base, file)
    with pytest.raises(BadData, match="at least four tokens"):
        ForgettingProbe(base, GeneralText("nothing", [{"text": "a"}]))


def test_the_shipped_english_is_enough_and_each_row_is_different() -> None:
    rows = forgetting._rows(ENGLISH)
    assert len({row["text"] for row in rows}) == len(rows) >= 40
    assert all(row["text"].isascii() for row in rows)
