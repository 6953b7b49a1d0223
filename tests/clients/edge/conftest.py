"""A package small enough to write by hand: every known word votes for one label of one head.

`good` votes for happy and `bad` for sad, ten times a word; `sharp` doubles the logits of `mild`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

MAX_LENGTH = 6
VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "[END]": 2, "good": 3, "bad": 4, "[": 5, "END": 6, "]": 7}


def bag_of_words() -> onnx.ModelProto:
    """Votes [V, 2] of the ids, summed where the mask is 1."""
    votes = np.zeros((len(VOCABULARY), 2), dtype=np.float32)
    votes[VOCABULARY["good"], 0] = votes[VOCABULARY["bad"], 1] = 1.0
    votes[VOCABULARY["[PAD]"], 1] = 100.0  # a pad that were read would shout
    votes[VOCABULARY["[END]"], 1] = 50.0
    nodes = [
        helper.make_node("Gather", ["votes", "input_ids"], ["voted"]),
        helper.make_node("Cast", ["attention_mask"], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["column"]),
        helper.make_node("Mul", ["voted", "column"], ["counted"]),
        helper.make_node("ReduceSum", ["counted", "one"], ["head_0_logits"], keepdims=0),
        helper.make_node("Add", ["head_0_logits", "head_0_logits"], ["head_1_logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info(f"head_{i}_logits", TensorProto.FLOAT, ["batch", 2])
        for i in (0, 1)
    ]
    constants = [
        numpy_helper.from_array(votes, "votes"),
        numpy_helper.from_array(np.array([-1]), "last"),
        numpy_helper.from_array(np.array([1]), "one"),
    ]
    graph = helper.make_graph(nodes, "bag", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def tokenizer() -> Tokenizer:
    made = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    made.pre_tokenizer = Whitespace()
    made.add_special_tokens(["[PAD]", "[UNK]", "[END]"])
    made.enable_padding(length=32)  # as sentence-transformers' files do; must not be applied
    return made


def describe(folder: Path, **changes: object) -> None:
    """Write the manifest of what is in `folder` now."""
    files = {
        name: {
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
            "size": (folder / name).stat().st_size,
        }
        for name in ("model.onnx", "tokenizer.json", "parity.json")
    }
    heads = [
        {
            "name": name, "ref": f"{name}:1", "digest": f"sha256:{i}", "labels": ["happy", "sad"],
            "output": f"head_{i}_logits", "pooling": "mean", "normalize": False,
        }
        for i, name in enumerate(["mild", "sharp"])
    ]  # fmt: skip
    manifest = {
        "format": "rootstock.package/1", "target": "onnx", "heads": heads, "files": files,
        "base": {"name": "bag", "fingerprint": "sha256:b"}, "max_length": MAX_LENGTH,
    } | changes  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture
def package_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(bag_of_words().SerializeToString())
    tokenizer().save(str(folder / "tokenizer.json"))
    parity = {"texts": 3, "max_difference": 2e-7, "tolerance": 1e-4}
    (folder / "parity.json").write_text(json.dumps(parity))
    describe(folder)
    return folder


@pytest.fixture
def redescribe():
    return describe
