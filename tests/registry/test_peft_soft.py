"""A soft prompt that PEFT saved becomes a version of the same bytes; what cannot be is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Registry, errors
from safetensors.torch import load, load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

Save = Callable[..., Path]


@pytest.fixture
def model() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2,
        )
    )  # fmt: skip


@pytest.fixture
def base(model: LlamaForCausalLM, tmp_path: Path) -> BaseCard:
    model.save_pretrained(tmp_path / "base")
    return BaseCard.read(tmp_path / "base", "tiny")


@pytest.fixture
def save(model: LlamaForCausalLM, tmp_path: Path) -> Save:
    def make(config: type = PromptTuningConfig, **options: Any) -> Path:
        settings = config(task_type="CAUSAL_LM", num_virtual_tokens=3, **options)
        get_peft_model(model, settings).save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("config", "options", "method", "width"),
    [
        (PromptTuningConfig, {}, "prompt_tuning", 16),
        (PrefixTuningConfig, {}, "prefix_tuning", 2 * 2 * 8),
        # The network that made the keys and values is over; they are what is saved.
        (PrefixTuningConfig, {"prefix_projection": True}, "prefix_tuning", 2 * 2 * 8),
    ],
)
def test_a_folder_becomes_a_version_of_the_same_values(
    registry: Registry, base: BaseCard, save: Save, config: type, options: dict[str, Any],
    method: str, width: int,
) -> None:  # fmt: skip
    folder = save(config, **options)
    version = registry.import_peft("local", "soft", folder, base)
    [part] = version.manifest.parts
    assert part.config == {"method": method, "num_virtual_tokens": 3}
    stored = load(registry.blobs.get(part.blob))
    saved = load_file(folder / "adapter_model.safetensors")
    assert stored.keys() == {"prompt_embeddings"}
    assert stored["prompt_embeddings"].shape == (3, width)
    assert torch.equal(stored["prompt_embeddings"], saved["prompt_embeddings"])
    assert version.manifest.lineage.source == "peft folder"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save .* is not served here"),
        ({"new_option": True}, "new_option True is not served here"),
        ({"num_virtual_tokens": None}, "num_virtual_tokens"),
        ({"num_virtual_tokens": 4}, r"shape \[3, 16\], expected \[4, 16\]"),
        ({"peft_type": "P_TUNING"}, "peft_type 'P_TUNING' cannot be imported"),
        ({"peft_type": ["PROMPT_TUNING"]}, r"peft_type \['PROMPT_TUNING'\] cannot be imported"),
    ],
)
def test_a_config_that_means_something_else_is_refused_by_field(
    registry: Registry, base: BaseCard, save: Save, changes: dict[str, Any], words: str
) -> None:
    folder = save()
    edit(folder, **changes)
    with pytest.raises(errors.InvalidArtifact, match=words):
        registry.import_peft("local", "soft", folder, base)


def test_another_bases_soft_prompt_is_told_so(
    registry: Registry, base: BaseCard, save: Save
) -> None:
    folder = save()
    save_file({"prompt_embeddings": torch.zeros(3, 20)}, folder / "adapter_model.safetensors")
    with pytest.raises(errors.WrongBase, match="20 values, on base 'tiny' it would have 16"):
        registry.import_peft("local", "soft", folder, base)


def test_a_file_larger_than_it_can_be_is_not_read_whole(
    registry: Registry, base: BaseCard, save: Save
) -> None:
    folder = save()
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * (2 << 20))
    with pytest.raises(errors.WrongBase, match="larger than this soft prompt can be"):
        registry.import_peft("local", "soft", folder, base)


def test_missing_weights_are_named(registry: Registry, base: BaseCard, save: Save) -> None:
    folder = save()
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(errors.InvalidArtifact, match=r"has no adapter_model\.safetensors"):
        registry.import_peft("local", "soft", folder, base)
