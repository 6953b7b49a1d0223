"""What a package answers, and what it refuses to open."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import rootstock_edge
from rootstock_edge import Package, PackageError, Result


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_public_names() -> None:
    assert rootstock_edge.__all__ == sorted(rootstock_edge.__all__)
    assert all(hasattr(rootstock_edge, name) for name in rootstock_edge.__all__)


def test_one_text_gives_every_heads_label_score_and_probabilities(package_dir: Path) -> None:
    (answer,) = Package(package_dir).classify("good good bad")
    assert answer["mild"] == Result(
        "happy",
        pytest.approx(sigmoid(1)),
        {"happy": pytest.approx(sigmoid(1)), "sad": pytest.approx(sigmoid(-1))},
    )
    assert answer["sharp"].score == pytest.approx(sigmoid(2))


def test_answers_come_in_the_order_of_the_texts_whatever_their_lengths(package_dir: Path) -> None:
    texts = [" ".join(["good"] * (i % 4) + ["bad"] * ((i * 7) % 3) + ["it"]) for i in range(50)]
    answers = Package(package_dir).classify(texts)
    for text, answer in zip(texts, answers, strict=True):
        margin = text.count("good") - text.count("bad")
        assert answer["mild"].probs["happy"] == pytest.approx(sigmoid(margin))


def test_a_long_text_is_cut_at_the_manifests_length(package_dir: Path) -> None:
    (answer,) = Package(package_dir).classify("good " * 6 + "bad " * 20)
    assert answer["mild"].score == pytest.approx(sigmoid(6))


def test_a_written_special_token_is_plain_text(package_dir: Path) -> None:
    (answer,) = Package(package_dir).classify("good [END]")
    assert answer["mild"].label == "happy"


def test_only_the_heads_asked_for_answer(package_dir: Path) -> None:
    package = Package(package_dir)
    assert package.heads == ("mild", "sharp")
    assert list(package.classify("good", heads=["sharp"])[0]) == ["sharp"]


def test_no_texts_give_no_answers(package_dir: Path) -> None:
    assert Package(package_dir).classify([]) == []


@pytest.mark.parametrize(
    ("texts", "heads", "words"),
    [
        (["good", ""], None, r"texts\[1\] is empty"),
        (["good", "\ud800"], None, r"texts\[1\] is not a str"),
        ([b"good"], None, r"texts\[0\] is not a str"),
        ("good", ["grim"], r"no head 'grim' here \(there are: mild, sharp\)"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words(package_dir: Path, texts, heads, words) -> None:
    with pytest.raises(ValueError, match=words):
        Package(package_dir).classify(texts, heads)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "parity.json"])
def test_one_changed_byte_anywhere_is_found(package_dir: Path, name: str) -> None:
    file = package_dir / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(PackageError, match=f"{name} is not the file that was exported"):
        Package(package_dir)


def test_a_file_cut_short_or_gone_is_found(package_dir: Path) -> None:
    model = package_dir / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(PackageError, match="cut short"):
        Package(package_dir)
    model.unlink()
    with pytest.raises(PackageError, match=r"model\.onnx: No such file"):
        Package(package_dir)


def test_a_folder_that_is_no_package_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="rootstock export"):
        Package(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "rootstock.package/9"}, "not of format"),
        ({"target": "gguf"}, "not of format"),
        ({"heads": [{"name": "mild"}]}, "damaged"),
        ({"heads": None}, "damaged"),
        ({"max_length": "long"}, "damaged"),
        ({"files": {}}, "damaged"),
        ({"base": "bag"}, "damaged"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(package_dir, redescribe, changes, words) -> None:
    redescribe(package_dir, **changes)
    with pytest.raises(PackageError, match=words):
        Package(package_dir)


def test_a_manifest_that_is_not_json_is_refused(package_dir: Path) -> None:
    for text in ("{", "[]", '"package"'):
        (package_dir / "manifest.json").write_text(text)
        with pytest.raises(PackageError):
            Package(package_dir)


def test_a_manifest_cannot_name_files_outside_the_package(package_dir: Path) -> None:
    manifest = json.loads((package_dir / "manifest.json").read_text())
    manifest["files"]["../secret"] = {"sha256": "0", "size": 1}
    (package_dir / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match=r"\.\./secret"):
        Package(package_dir)


def test_labels_that_do_not_fit_the_model_are_refused(package_dir: Path) -> None:
    manifest = json.loads((package_dir / "manifest.json").read_text())
    manifest["heads"][0]["labels"].append("angry")
    (package_dir / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(PackageError, match="head mild has 3 labels"):
        Package(package_dir)


def test_a_model_that_is_not_onnx_is_refused_in_words(package_dir: Path, redescribe) -> None:
    (package_dir / "model.onnx").write_bytes(b"not a model")
    redescribe(package_dir)
    with pytest.raises(PackageError, match="cannot be opened"):
        Package(package_dir)
