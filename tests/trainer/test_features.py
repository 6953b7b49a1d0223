"""Features: embedded once, stored, verified, equal to the plain model's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_trainer.base import Base
from rootstock_trainer.features import Features, features_for
from transformers import AutoModel, AutoTokenizer

TEXTS = ["the kettle is great", "the lamp", "the kettle is great", "the rug is dull the fan", "is"]


def features(base: Base, texts: list[str], folder: Path) -> Features:
    return features_for(base, texts, folder, lambda done, total: None)


@pytest.fixture(params=["encoder", "decoder"])
def base(request: pytest.FixtureRequest) -> Base:
    folder: Path = request.getfixturevalue(f"{request.param}_folder")
    return Base(BaseCard.read(folder, f"tiny-{request.param}"), folder)


def test_features_equal_the_model_run_on_each_text_alone(base: Base, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(base.path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    rows = features(base, TEXTS, tmp_path).rows
    for text, row in zip(TEXTS, rows, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        pooled = hidden.mean(0) if base.card.pooling == "mean" else hidden[-1]
        torch.testing.assert_close(row, pooled / pooled.norm(), atol=1e-5, rtol=0)


def test_text_longer_than_the_context_is_cut_there(base: Base, tmp_path: Path) -> None:
    tokenizer = base.tokenizer()
    endless = "the kettle is great " * 40
    assert len(tokenizer(endless)["input_ids"]) > base.card.context_length
    assert torch.isfinite(features(base, [endless], tmp_path).rows).all()


def test_second_use_of_the_same_texts_embeds_nothing_and_says_so(
    base: Base, tmp_path: Path
) -> None:
    first = features(base, TEXTS, tmp_path)
    second = features(base, TEXTS[::-1], tmp_path)
    assert first.embedded == 4
    assert "4 texts embedded and stored" in first.note
    assert second.embedded == 0
    assert second.note.startswith("reusing stored features ")
    assert second.note.endswith(", 0 texts embedded")
    torch.testing.assert_close(second.rows, first.rows.flip(0), atol=0, rtol=0)


def test_other_texts_and_other_bases_have_features_of_their_own(
    encoder_folder: Path, tmp_path: Path
) -> None:
    card = BaseCard.read(encoder_folder, "tiny-encoder")
    features(Base(card, encoder_folder), TEXTS, tmp_path)
    assert features(Base(card, encoder_folder), [*TEXTS, "a fan"], tmp_path).embedded == 5
    for change in ({"fingerprint": "sha256:other"}, {"pooling": "cls"}, {"normalize": False}):
        other = Base(card.model_copy(update=change), encoder_folder)
        assert features(other, TEXTS, tmp_path).embedded == 4


@pytest.mark.parametrize("damage", ["flip a bit", "truncate", "empty"])
def test_damaged_features_are_noticed_and_made_again(
    encoder_folder: Path, tmp_path: Path, damage: str
) -> None:
    base = Base(BaseCard.read(encoder_folder, "tiny-encoder"), encoder_folder)
    good = features(base, TEXTS, tmp_path).rows
    (file,) = tmp_path.iterdir()
    data = file.read_bytes()
    flipped = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    file.write_bytes({"flip a bit": flipped, "truncate": data[:-7], "empty": b""}[damage])
    again = features(base, TEXTS, tmp_path)
    assert again.embedded == 4
    assert "are damaged" in again.note
    assert torch.equal(again.rows, good)
    assert features(base, TEXTS, tmp_path).embedded == 0


def test_concurrent_writers_leave_one_whole_file(encoder_folder: Path, tmp_path: Path) -> None:
    base = Base(BaseCard.read(encoder_folder, "tiny-encoder"), encoder_folder)
    with ThreadPoolExecutor(4) as pool:
        rows = [r.rows for r in pool.map(lambda _: features(base, TEXTS, tmp_path), range(8))]
    assert all(torch.equal(row, rows[0]) for row in rows)
    assert [file.suffix for file in tmp_path.iterdir()] == [".safetensors"]
