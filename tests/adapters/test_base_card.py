"""A base folder is described from its config and headers alone; others are refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rootstock_adapters.base_card import BaseCard, fingerprint
from rootstock_adapters.errors import BaseError
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)
from transformers.pytorch_utils import Conv1D

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def tiny_models() -> dict[str, PreTrainedModel]:
    distilbert = DistilBertConfig(vocab_size=64, dim=16, hidden_dim=32, n_layers=2, n_heads=2)
    return {
        "llama": LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=1)),
        "gemma2": Gemma2ForCausalLM(Gemma2Config(**SMALL, num_key_value_heads=1, head_dim=8)),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2)),
        "bert": BertModel(BertConfig(**SMALL)),
        "bert-task": BertForSequenceClassification(BertConfig(**SMALL)),
        "distilbert-task": DistilBertForMaskedLM(distilbert),
    }


def linears_of(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """What torch says: every linear inside the backbone, poolers apart."""
    found = {}
    for name, module in model.base_model.named_modules():
        if name.startswith("pooler"):
            continue
        if isinstance(module, torch.nn.Linear):
            found[name] = (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):
            found[name] = (module.nf, module.nx)
    return found


@pytest.mark.parametrize("kind", tiny_models())
def test_linears_and_their_shapes_are_those_of_the_loaded_model(kind: str, tmp_path: Path) -> None:
    model = tiny_models()[kind]
    model.save_pretrained(tmp_path)
    card = BaseCard.read(tmp_path, "tiny")
    assert card.linears == linears_of(model)
    assert (card.hidden_size, card.layers, card.vocab_size) == (16, 2, 64)
    assert card.task == ("encode" if "bert" in kind else "generate")
    assert card.pooling == ("mean" if "bert" in kind else "last")


@pytest.mark.parametrize("kind", tiny_models())
def test_names_of_the_task_model_lead_into_the_backbone(kind: str, tmp_path: Path) -> None:
    model = tiny_models()[kind]
    model.save_pretrained(tmp_path)
    card = BaseCard.read(tmp_path, "tiny")
    inside = {card.module_path(name) for name, _ in model.named_modules()}
    assert card.linears.keys() <= inside


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    BertModel(BertConfig(**SMALL)).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def edit_config(path: Path, **changes: object) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_fingerprint_follows_content_and_not_place_or_readme(bert: Path, tmp_path: Path) -> None:
    before = fingerprint(bert)
    moved = shutil.copytree(bert, tmp_path / "elsewhere")
    (moved / "README.md").write_text("other words")
    (moved / ".cache").mkdir()
    (moved / ".cache" / "lock.json").write_text("{}")
    assert fingerprint(moved) == before
    edit_config(moved, layer_norm_eps=1e-5)
    assert fingerprint(moved) != before


def test_fingerprint_changes_with_a_single_weight_bit(bert: Path) -> None:
    before = fingerprint(bert)
    weights = bert / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert fingerprint(bert) != before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "falcon"}, "'falcon' is not served here"),
        ({"model_type": ["bert"]}, "is not served here"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "bring their own code"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"vocab_size": None}, "vocab_size"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused_in_words(
    bert: Path, changes: dict[str, object], words: str
) -> None:
    edit_config(bert, **changes)
    with pytest.raises(BaseError, match=words):
        BaseCard.read(bert, "tiny")


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BaseError, match=r"no config\.json"):
        BaseCard.read(tmp_path, "tiny")


def test_pickled_weights_alone_are_refused(bert: Path) -> None:
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    with pytest.raises(BaseError, match="pickled weights are not read"):
        BaseCard.read(bert, "tiny")


@pytest.mark.parametrize(
    "placed", [None, {}, {"a": "../../elsewhere.safetensors"}, {"a": 1}, {"a": ".."}]
)
def test_an_index_that_leads_out_of_the_folder_is_refused(bert: Path, placed: object) -> None:
    (bert / "model.safetensors").unlink()
    index = bert / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(BaseError, match=r"weight_map|cannot be read"):
        BaseCard.read(bert, "tiny")


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64])
def test_weights_that_are_no_safetensors_are_refused(bert: Path, content: bytes) -> None:
    (bert / "model.safetensors").write_bytes(content)
    with pytest.raises(BaseError, match="cannot be read as a base model"):
        BaseCard.read(bert, "tiny")


@pytest.mark.parametrize(
    ("modes", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "lasttoken"}, "last"),
    ],
)
def test_pooling_is_read_as_sentence_transformers_writes_it(
    bert: Path, modes: dict[str, object], pooling: str
) -> None:
    (bert / "1_Pooling").mkdir()
    (bert / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    assert BaseCard.read(bert, "tiny").pooling == pooling
    assert BaseCard.read(bert, "tiny").normalize is False
    (bert / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]')
    assert BaseCard.read(bert, "tiny").normalize is True


def test_pooling_that_is_not_served_is_refused(bert: Path) -> None:
    (bert / "1_Pooling").mkdir()
    (bert / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(BaseError, match="only cls, mean and last-token pooling"):
        BaseCard.read(bert, "tiny")


def test_a_card_survives_json(bert: Path) -> None:
    card = BaseCard.read(bert, "tiny")
    assert BaseCard.model_validate_json(card.model_dump_json()) == card


def test_reading_a_card_needs_no_torch(bert: Path) -> None:
    import subprocess

    code = (
        "import sys, pathlib; from rootstock_adapters.base_card import BaseCard;"
        f"BaseCard.read(pathlib.Path({str(bert)!r}), 'x'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
