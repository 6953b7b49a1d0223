"""A whole export of two heads with different poolings on a tiny BERT, and every refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.lora.spec import LoraSpec
from rootstock_edge import Package
from rootstock_export import NotExportable, OutputExists, ParityFailed, ParityReport, export
from rootstock_export.check import check
from rootstock_registry import Lineage, NewPart, Registry, Version
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

MOOD = HeadSpec(pooling="mean", normalize=True, labels=("happy", "sad", "angry"))
TOPIC = HeadSpec(pooling="cls", normalize=False, labels=("kettle", "parcel"))
CONTEXT = 48


@pytest.fixture(scope="module")
def versions(tiny_base: Path, publish_head: Callable) -> list[Version]:
    return [publish_head(tiny_base, "mood", MOOD), publish_head(tiny_base, "topic", TOPIC)]


@pytest.fixture(scope="module")
def server(tiny_base: Path, versions: list[Version], reference: Callable) -> Callable:
    return reference(tiny_base, versions)


@pytest.fixture(scope="module")
def exported(
    tiny_base: Path,
    versions: list[Version],
    registry: Registry,
    server: Callable,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, ParityReport, list[str]]:
    out = tmp_path_factory.mktemp("out") / "package"
    said: list[str] = []
    extra = ["great kettle, thank you"]
    report = export(versions, tiny_base, registry, out, server, texts=extra, progress=said.append)
    return out, report, said


def test_package_holds_model_tokenizer_manifest_and_parity(exported, versions, tiny_base) -> None:
    out, report, said = exported
    assert sorted(file.name for file in out.iterdir()) == [
        "manifest.json", "model.onnx", "parity.json", "tokenizer.json",
    ]  # fmt: skip
    assert list(out.parent.iterdir()) == [out]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["format"] == "rootstock.package/1"
    assert manifest["base"]["fingerprint"] == versions[0].base_fingerprint
    assert manifest["max_length"] == CONTEXT
    assert sorted(manifest["files"]) == ["model.onnx", "parity.json", "tokenizer.json"]
    assert manifest["heads"][1] == {
        "name": "topic", "ref": "topic:1", "digest": versions[1].digest,
        "labels": ["kettle", "parcel"], "output": "head_1_logits",
        "pooling": "cls", "normalize": False,
    }  # fmt: skip
    assert json.loads((out / "parity.json").read_text()) == report.as_json()
    assert len(said) == 3


def test_parity_is_measured_up_to_the_whole_context(exported) -> None:
    _, report, _ = exported
    assert report.longest_tokens == CONTEXT
    assert report.texts > 10
    assert set(report.heads) == {"mood", "topic"}
    assert 0 < report.max_difference < 1e-5


def test_texts_the_caller_gives_are_compared_too(exported, server) -> None:
    out, report, _ = exported
    asked: list[str] = []

    def listening(texts: list[str]) -> list:
        asked.extend(texts)
        return server(texts)

    check(out, listening, ["blue kettle"])
    assert asked[-1] == "blue kettle"
    assert len(asked) == len(set(asked)) == report.texts


def test_device_reads_past_the_tokenizers_own_cut(exported, server) -> None:
    out, _, _ = exported
    text = "great service thank you no still waiting the blue kettle leaks"
    assert len(text.split()) > 8  # where this base's tokenizer.json would cut
    assert Package(out).classify(text)[0]["mood"].probs == pytest.approx(
        server([text])[0]["mood"], abs=1e-5
    )


def test_a_special_token_in_a_text_is_plain_text(exported, server) -> None:
    out, _, _ = exported
    text = "great [SEP] service"
    assert Package(out).classify(text)[0]["mood"].probs == pytest.approx(
        server([text])[0]["mood"], abs=1e-5
    )


def test_wrong_server_answer_fails_the_export_and_leaves_nothing(
    versions, tiny_base, registry, server, tmp_path
) -> None:
    def wrong(texts: list[str]) -> list:
        answers = server(texts)
        probs = answers[4]["topic"]
        probs["kettle"], probs["parcel"] = probs["kettle"] - 5e-4, probs["parcel"] + 5e-4
        return answers

    with pytest.raises(ParityFailed, match=r"head topic, text .* gives kettle .* apart"):
        export(versions, tiny_base, registry, tmp_path / "package", wrong)
    assert list(tmp_path.iterdir()) == []


def _nan(answers: list) -> None:
    answers[0]["mood"]["sad"] = float("nan")


def _renamed(answers: list) -> None:
    answers[0]["mood"]["glad"] = answers[0]["mood"].pop("happy")


def _missing_head(answers: list) -> None:
    del answers[0]["mood"]


def _missing_text(answers: list) -> None:
    answers.pop()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_nan, "gives sad .*, the server nan"),
        (_renamed, "has labels happy, sad, angry, the server answered with"),
        (_missing_head, "the server answered with none"),
        (_missing_text, "answered .* of .* texts"),
    ],
)
def test_answers_that_cannot_be_compared_fail_parity(exported, server, spoil, words) -> None:
    def spoiled(texts: list[str]) -> list:
        answers = server(texts)
        spoil(answers)
        return answers

    with pytest.raises(ParityFailed, match=words):
        check(exported[0], spoiled, [])


def test_server_that_cannot_be_reached_leaves_nothing(
    versions, tiny_base, registry, tmp_path
) -> None:
    def gone(texts: list[str]) -> list:
        raise ConnectionRefusedError("nobody listens")

    with pytest.raises(ConnectionRefusedError):
        export(versions, tiny_base, registry, tmp_path / "package", gone)
    assert list(tmp_path.iterdir()) == []


def test_folder_in_use_is_refused_and_untouched(versions, tiny_base, registry, tmp_path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(OutputExists, match="name a new or an empty folder"):
        export(versions, tiny_base, registry, tmp_path, _never)
    with pytest.raises(OutputExists):
        export(versions, tiny_base, registry, tmp_path / "letter.txt", _never)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"]


def _never(texts: list[str]) -> list:
    raise AssertionError("a refused export asks the server nothing")


def _refusal(versions: list[Version], base: Path, registry: Registry, out: Path) -> str:
    with pytest.raises(NotExportable) as refused:
        export(versions, base, registry, out / "package", _never)
    assert list(out.iterdir()) == []
    return refused.value.message


def test_nothing_and_twice_the_same_name_are_refused(
    versions, tiny_base, registry, tmp_path
) -> None:
    assert "at least one" in _refusal([], tiny_base, registry, tmp_path)
    twice = [versions[0], versions[0]]
    assert "mood: asked for twice" in _refusal(twice, tiny_base, registry, tmp_path)


def test_another_base_under_the_same_heads_is_refused(
    versions, make_base, registry, tmp_path
) -> None:
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    other = make_base(lambda v: BertModel(BertConfig(vocab_size=v, num_hidden_layers=1, **sizes)))

    message = _refusal(versions, other, registry, tmp_path)
    assert "mood:1 was made for base" in message
    assert versions[0].base_fingerprint in message


def test_a_version_that_changes_the_base_is_refused(tiny_base, registry, tmp_path) -> None:
    card = BaseCard.read(tiny_base, "tiny-encoder")
    module = next(iter(card.linears))
    spec = LoraSpec(r=1, lora_alpha=1, target_modules=[module])
    tensors = {name: torch.ones(shape) for name, shape in spec.tensor_shapes(card).items()}
    part = NewPart(spec=spec, data=safetensors.torch.save(tensors))
    registry.add_base(card)
    version = registry.publish("local", "voice", card, [part], lineage=Lineage(method="lora"))
    assert "voice:1 has parts lora" in _refusal([version], tiny_base, registry, tmp_path)


def test_heads_on_a_base_that_generates_are_refused(
    make_base, publish_head, registry, tmp_path
) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    decoder = make_base(
        lambda v: LlamaForCausalLM(LlamaConfig(vocab_size=v, num_hidden_layers=1, **sizes))
    )
    version = publish_head(decoder, "verdict", MOOD)
    assert "generates text" in _refusal([version], decoder, registry, tmp_path)


def test_base_without_a_tokenizer_file_is_refused(
    tiny_base, publish_head, registry, tmp_path, tmp_path_factory
) -> None:
    bare = tmp_path_factory.mktemp("bare")
    for name in ("config.json", "model.safetensors"):
        (bare / name).write_bytes((tiny_base / name).read_bytes())
    version = publish_head(bare, "bare", MOOD)
    assert "has no tokenizer.json" in _refusal([version], bare, registry, tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pooling": "none"}, "labels every token"),
        ({"hidden": 8}, "has a hidden layer of 8 units"),
        ({"pooling": "max"}, "pools by the largest"),
    ],
)
def test_a_head_that_the_device_cannot_compute_is_refused_in_words(
    tiny_base, registry, tmp_path, change, words
) -> None:
    spec = MOOD.model_copy(update=change)
    card = BaseCard.read(tiny_base, tiny_base.name.strip("_").lower())
    shapes = spec.tensor_shapes(card)
    data = safetensors.torch.save({name: torch.ones(shape) for name, shape in shapes.items()})
    version = registry.publish(
        "local", "unfit", card, [NewPart(spec, data)], lineage=Lineage(method="test")
    )
    assert words in _refusal([version], tiny_base, registry, tmp_path)
