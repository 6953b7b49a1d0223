"""M2M100's folders have no tokenizer.json: their sentencepiece model and vocabulary are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rootstock_adapters.errors import BaseError
from rootstock_server.base.tokenizer import Tokenizer
from transformers.utils import sentencepiece_model_pb2_new as sentencepiece

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
# Best first, as sentencepiece scores what it has merged; single characters come last.
PIECES = ["he", "ll", "hell", "▁hell", "lo", "▁lo", "▁", "h", "e", "l", "o", "w"]
IDS = {piece: number for number, piece in enumerate(SPECIAL + PIECES)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = sentencepiece.ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.BPE
    for piece in ("<unk>", "<s>", "</s>"):
        kind = model.SentencePiece.UNKNOWN if piece == "<unk>" else model.SentencePiece.CONTROL
        model.pieces.add(piece=piece, score=0.0, type=kind)
    for place, piece in enumerate(PIECES):
        model.pieces.add(piece=piece, score=-float(place))
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model.SerializeToString())
    (tmp_path / "vocab.json").write_text(json.dumps(IDS))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("hello", ["▁hell", "o"]),
        ("  low  hello ", ["▁lo", "w", "▁hell", "o"]),
        ("well", ["▁", "w", "e", "ll"]),
        ("hez", ["▁", "he", "<unk>"]),
    ],
)
def test_texts_are_cut_as_sentencepiece_cuts_them(
    folder: Path, text: str, pieces: list[str]
) -> None:
    assert Tokenizer(folder).encode(text) == [IDS[piece] for piece in pieces]


def test_languages_are_numbered_after_the_pieces_and_stand_before_the_text(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    assert tokenizer.language("af") == len(IDS)
    assert tokenizer.language("zu") == len(IDS) + 99
    assert tokenizer.language("xx") is None
    afrikaans = tokenizer.language("af")
    assert tokenizer.in_language("hello", afrikaans) == [afrikaans, IDS["▁hell"], IDS["o"], 2]


def test_a_language_written_by_a_caller_is_plain_text(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    assert tokenizer.language("af") not in tokenizer.encode("hello __af__")


def test_an_answer_has_neither_its_language_nor_a_leading_space(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    stream = tokenizer.stream([2, tokenizer.language("af")])
    said = "".join(stream.push(token) for token in [*tokenizer.encode("hello low"), 2])
    assert said == "hello low"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sentencepiece.bpe.model", b"\xff\xff no protobuf"),
        ("sentencepiece.bpe.model", b""),
        ("vocab.json", b"{"),
        ("vocab.json", b'{"a": 7}'),
        ("tokenizer_config.json", b'{"language_codes": "klingon"}'),
    ],
)
def test_files_that_are_not_m2m100s_are_refused_in_words(
    folder: Path, file: str, content: bytes
) -> None:
    (folder / file).write_bytes(content)
    with pytest.raises(BaseError, match=r"sentencepiece\.bpe\.model"):
        Tokenizer(folder)
