"""Encoder-decoders over HTTP: sources, languages, and what the decoder begins with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rootstock_server.api.target import ServedBase
from rootstock_server.base.tokenizer import Tokenizer

EOS, EN, FR, NLLB, START = 250, 251, 252, 253, 249


@pytest.fixture
def translator(house, base_folders: dict[str, Path], tmp_path: Path):
    """`translator("m2m_100")`: a served encoder-decoder whose engine says what it was asked."""

    def serve(model_type: str):
        card = house.decoder.card.model_copy(
            update={
                "name": "pair", "model_type": model_type, "task": "text2text",
                "decoder_start": (START,), "fingerprint": "sha256:" + "7" * 64,
            }
        )  # fmt: skip
        file = json.loads((base_folders["toy"] / "tokenizer.json").read_text())
        for number, token in ((EOS, "</s>"), (EN, "__en__"), (FR, "__fr__"), (NLLB, "eng_Latn")):
            old = next(c for c, i in file["model"]["vocab"].items() if i == number)
            del file["model"]["vocab"][old]
            file["model"]["vocab"][token] = number
        (tmp_path / "tokenizer.json").write_text(json.dumps(file))
        engine = type(house.decoder)(card)
        house.handle.bases["pair"] = ServedBase(engine, Tokenizer(tmp_path), tmp_path)
        return engine

    return serve


async def test_a_translation_has_its_languages_before_source_and_target(house, translator) -> None:
    engine = translator("m2m_100")
    body = {"model": "pair", "prompt": "hi", "source_lang": "en", "target_lang": "fr"}
    response = await house.post("/v1/completions", body)
    assert response.json()["choices"][0]["text"] == "hello world"
    [command] = engine.generated
    source = [EN, *house.ids("hi"), EOS]
    assert command.prompt_ids == [*source, START, FR]
    assert command.source == len(source)


async def test_a_chat_translates_its_one_message_up_to_the_whole_context(house, translator) -> None:
    engine = translator("m2m_100")
    message = {"role": "user", "content": "hi"}
    body = {"model": "pair", "source_lang": "eng_Latn", "target_lang": "fr"}
    response = await house.post("/v1/chat/completions", body | {"messages": [message]})
    assert response.status_code == 200
    [command] = engine.generated
    assert command.prompt_ids == [NLLB, *house.ids("hi"), EOS, START, FR]
    assert command.sampling.max_tokens == engine.card.context_length - 2
    two = await house.post("/v1/chat/completions", body | {"messages": [message] * 2})
    assert two.status_code == 400
    assert two.json()["error"]["param"] == "messages"


async def test_token_ids_bring_their_own_language(house, translator) -> None:
    engine = translator("m2m_100")
    body = {"model": "pair", "prompt": [EN, 5, EOS], "target_lang": "fr"}
    assert (await house.post("/v1/completions", body)).status_code == 200
    assert engine.generated[0].prompt_ids == [EN, 5, EOS, START, FR]
    refused = await house.post("/v1/completions", body | {"source_lang": "en"})
    assert refused.json()["error"]["param"] == "source_lang"


async def test_a_text_to_text_base_without_languages_reads_the_prompt_as_it_is(
    house, translator
) -> None:
    engine = translator("t5")
    body = {"model": "pair", "prompt": ["hi", "there"]}
    assert (await house.post("/v1/completions", body)).status_code == 200
    assert [c.prompt_ids for c in engine.generated] == [
        [*house.ids("hi"), START], [*house.ids("there"), START],
    ]  # fmt: skip
    assert [c.source for c in engine.generated] == [2, 5]


@pytest.mark.parametrize(
    ("model_type", "fields", "param", "words"),
    [
        ("m2m_100", {"target_lang": "fr"}, "source_lang", "needs a language"),
        ("m2m_100", {"source_lang": "en"}, "target_lang", "needs a language"),
        ("m2m_100", {"source_lang": "en", "target_lang": "xx"}, "target_lang", "does not know"),
        ("m2m_100", {"source_lang": "</s>", "target_lang": "fr"}, "source_lang", "does not know"),
        ("t5", {"target_lang": "fr"}, "target_lang", "no translator"),
        ("t5", {"source_lang": "en"}, "source_lang", "no translator"),
    ],
)
async def test_a_language_that_cannot_be_used_is_refused_by_its_field(
    house, translator, model_type, fields, param, words
) -> None:
    engine = translator(model_type)
    response = await house.post("/v1/completions", {"model": "pair", "prompt": "hi"} | fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert words in response.json()["error"]["message"]
    assert engine.generated == []


async def test_a_decoder_that_is_told_a_language_says_that_it_is_no_translator(house) -> None:
    body = {"model": "toy", "prompt": "hi", "target_lang": "fr"}
    response = await house.post("/v1/completions", body)
    assert response.json()["error"]["param"] == "target_lang"
