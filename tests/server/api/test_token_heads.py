"""Heads that label tokens: the answer over HTTP, and Hugging Face's own words for the same."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rootstock_adapters.head.spec import HeadSpec
from rootstock_registry import Lineage, NewPart
from rootstock_server.api import verdict
from rootstock_server.base.tokenizer import Tokenizer
from rootstock_server.engine.request import Encoded, HeadAnswer
from rootstock_wire.native import Classification, TokensResult
from safetensors.numpy import save
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForTokenClassification,
    PreTrainedTokenizerFast,
    TokenClassificationPipeline,
)

NAMES = ("O", "B-PER", "B-LOC")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "anna", "lives", "in", "ber", "##lin", "now", "."]


def publish_tagger(house) -> str:
    card = house.encoder.card
    spec = HeadSpec(pooling="none", normalize=False, labels=NAMES)
    width = card.hidden_size
    data = save({"weight": np.ones((3, width), "f4"), "bias": np.ones(3, "f4")})
    lineage = Lineage(method="test")
    house.registry.publish(
        "local", "names", card, [NewPart(spec, data)], lineage=lineage, promote="prod"
    )
    return house.digest("names")


@pytest.fixture
def tagging(house, monkeypatch):
    """The scripted engine labels every third token a person, every other one outside."""

    async def encode(request):
        heads = []
        for digest in request.heads:
            if digest == house.digest("mood"):
                heads.append(HeadAnswer(version=digest, labels=["bad", "good"], logits=[0.0, 1.0]))
                continue
            logits = [[0.0, 2.0 * (i % 3 == 1), -1.0] for i in range(len(request.prompt_ids))]
            logits = [[0.5, *each[1:]] for each in logits]
            heads.append(HeadAnswer(version=digest, labels=list(NAMES), token_logits=logits))
        return Encoded(id=request.id, embedding=None, heads=heads)

    monkeypatch.setattr(house.encoder, "encode", encode)
    return publish_tagger(house)


async def test_tokens_are_answered_with_their_labels_and_places(house, tagging) -> None:
    response = await house.post("/v1/classify", {"input": "abcde", "models": ["names", "mood"]})
    assert response.status_code == 200
    tagged, mood = response.json()["data"][0]["results"]
    share = math.exp(2.0) / (math.exp(0.5) + math.exp(2.0) + math.exp(-1.0))
    assert tagged == {
        "model": "names",
        "digest": tagging,
        "tokens": [
            {"entity": "B-PER", "score": pytest.approx(share), "index": index, "word": word,
             "start": index, "end": index + 1}
            for index, word in ((1, "b"), (4, "e"))
        ],
    }  # fmt: skip
    assert mood["label"] == "good"
    [row] = Classification.model_validate(response.json()).data
    assert isinstance(row.results[0], TokensResult)


async def test_a_text_without_any_entity_has_an_empty_list(house, tagging) -> None:
    response = await house.post("/v1/classify", {"input": ["a", "ab"], "models": ["names"]})
    tokens = [row["results"][0]["tokens"] for row in response.json()["data"]]
    assert tokens[0] == [] and [each["word"] for each in tokens[1]] == ["b"]


def test_labels_scores_words_and_places_are_those_of_hugging_faces_pipeline(tmp_path: Path) -> None:
    backend = Backend(
        models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    backend.save(str(tmp_path / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, initializer_range=1.0, id2label=dict(enumerate(NAMES)),
        label2id={name: i for i, name in enumerate(NAMES)},
    )  # fmt: skip
    model = BertForTokenClassification(config).eval()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    text = "anna lives in berlin now ."
    ours = Tokenizer(tmp_path)
    with torch.inference_mode():
        logits = model(torch.tensor([ours.encode(text)])).logits[0].tolist()
    answer = HeadAnswer(version="v", labels=list(NAMES), token_logits=logits)
    found = [each.model_dump() for each in verdict._labelled(answer, ours.pieces(text))]
    expected = TokenClassificationPipeline(model=model, tokenizer=tokenizer)(text)
    assert expected, "the oracle is blind: no token has a label"
    assert len(found) == len(expected) < len(ours.encode(text)) - 2
    for one, other in zip(found, expected, strict=True):
        assert one.pop("score") == pytest.approx(float(other.pop("score")), abs=1e-5)
        assert one == other
