"""Every option of PEFT's LoRA and IA3 that is served comes through; what does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftConfig, get_peft_model
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.kinds import parse_spec
from rootstock_adapters.spec import PartSpec
from rootstock_registry import Registry, errors
from safetensors.torch import load, load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**SMALL, num_key_value_heads=1, attention_bias=True)
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    ),
    "bert-task": lambda: BertForSequenceClassification(BertConfig(**SMALL)),
}
Q, V = "layers.0.self_attn.q_proj", "layers.0.self_attn.v_proj"
pytestmark = pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers")


class Folder:
    """A base, and a folder in which PEFT saved an adapter of it."""

    def __init__(self, path: Path, config: PeftConfig, model: str = "llama") -> None:
        torch.manual_seed(0)
        base = MODELS[model]()
        base.save_pretrained(path / "base")
        self.card = BaseCard.read(path / "base", "tiny")
        self.path = path / "adapter"
        get_peft_model(base, config).save_pretrained(self.path)
        self.tensors = load_file(self.path / "adapter_model.safetensors")

    def edit(self, **changes: Any) -> None:
        file = self.path / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    def keep(self, wanted: Callable[[str], bool]) -> None:
        kept = {name: tensor for name, tensor in self.tensors.items() if wanted(name)}
        save_file(kept, self.path / "adapter_model.safetensors")

    def publish(self, registry: Registry) -> tuple[PartSpec, dict[str, torch.Tensor]]:
        version = registry.import_peft("local", "triage", self.path, self.card)
        [part] = version.manifest.parts
        return parse_spec(part.kind, part.config), load(registry.blobs.get(part.blob))

    def refused(self, registry: Registry, error: type[errors.RegistryError], words: str) -> None:
        with pytest.raises(error, match=words):
            registry.import_peft("local", "triage", self.path, self.card)
        assert registry.adapters("local") == []


SERVED: list[tuple[str, PeftConfig]] = [
    ("llama", LoraConfig(r=4, use_dora=True, target_modules=["q_proj", "lm_head"])),
    ("llama", LoraConfig(r=4, target_modules=["embed_tokens", "up_proj"])),
    ("llama", LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["mlp", "lm_head"])),
    ("llama", LoraConfig(r=4, target_modules=["q_proj"], bias="lora_only")),
    ("llama", LoraConfig(r=4, target_modules=["q_proj"], bias="all", modules_to_save=["norm"])),
    ("gpt2", LoraConfig(r=4, target_modules=["wte", "c_fc"], bias="all", fan_in_fan_out=True)),
    ("llama", IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])),
    ("gpt2", IA3Config(task_type="CAUSAL_LM")),
    (
        "llama",
        IA3Config(target_modules=["q_proj"], feedforward_modules=[], modules_to_save=["mlp"]),
    ),
]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to")
@pytest.mark.parametrize(("model", "config"), SERVED)
def test_every_tensor_that_peft_saved_is_in_the_part(
    model: str, config: PeftConfig, tmp_path: Path, registry: Registry
) -> None:
    folder = Folder(tmp_path, config, model)
    _, tensors = folder.publish(registry)
    assert len(tensors) == len(folder.tensors)
    for name, theirs in folder.tensors.items():
        path = folder.card.module_path(name.removeprefix("base_model.model."))
        ours = tensors[path.replace(".base_layer.", ".")]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_patterns_become_ranks_and_alphas_of_full_paths(tmp_path: Path, registry: Registry) -> None:
    config = LoraConfig(
        r=4, target_modules=["q_proj", "v_proj"], lora_alpha=6,
        rank_pattern={f"^model.{Q}": 3, "q_proj": 2}, alpha_pattern={"self_attn.v_proj": 5},
    )  # fmt: skip
    spec, _ = Folder(tmp_path, config).publish(registry)
    assert spec.model_dump()["rank_pattern"] == {Q: 3, Q.replace("0", "1"): 2}
    assert spec.model_dump()["alpha_pattern"] == {V: 5, V.replace("0", "1"): 5}


def test_what_ia3_scales_on_its_way_in_is_told_from_what_it_scales_on_its_way_out(
    tmp_path: Path, registry: Registry
) -> None:
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    spec, _ = Folder(tmp_path, config).publish(registry)
    assert spec.model_dump()["feedforward_modules"] == tuple(
        f"layers.{n}.mlp.down_proj" for n in range(2)
    )


def test_a_rank_that_the_pattern_does_not_give_is_refused(
    tmp_path: Path, registry: Registry
) -> None:
    folder = Folder(tmp_path, LoraConfig(r=4, target_modules=["q_proj"]))
    folder.edit(rank_pattern={"q_proj": 8})
    folder.refused(registry, errors.WrongBase, r"has shape \[4, 16\], expected \[8, 16\]")


def test_a_pattern_that_is_a_regular_expression_is_refused_by_name(
    tmp_path: Path, registry: Registry
) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], alpha_pattern={r".*\.0\..*q_proj": 8})
    Folder(tmp_path, config).refused(registry, errors.InvalidArtifact, "alpha_pattern.*regular exp")


def test_a_magnitude_that_is_missing_is_named(tmp_path: Path, registry: Registry) -> None:
    folder = Folder(tmp_path, LoraConfig(r=4, target_modules=["q_proj"], use_dora=True))
    folder.keep(lambda name: f"{Q}.lora_magnitude_vector" not in name)
    folder.refused(registry, errors.InvalidArtifact, f"{Q} has no lora_magnitude_vector")


def test_a_magnitude_on_an_embedding_is_refused(tmp_path: Path, registry: Registry) -> None:
    config = LoraConfig(r=4, target_modules=["embed_tokens"], use_dora=True)
    folder = Folder(tmp_path, config)
    folder.refused(registry, errors.RegistryError, "use_dora: not served on an embedding")


def test_a_saved_module_without_weights_is_named(tmp_path: Path, registry: Registry) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head", "norm"])
    folder = Folder(tmp_path, config)
    folder.keep(lambda name: "lm_head" not in name)
    folder.refused(registry, errors.InvalidArtifact, "modules_to_save names lm_head")


def test_a_bias_without_the_option_is_named(tmp_path: Path, registry: Registry) -> None:
    folder = Folder(tmp_path, LoraConfig(r=4, target_modules=["q_proj"], bias="lora_only"))
    folder.edit(bias="none")
    folder.refused(registry, errors.InvalidArtifact, f"{Q} has a bias")


def test_a_classifier_without_the_task_is_refused_in_words(
    tmp_path: Path, registry: Registry
) -> None:
    config = IA3Config(target_modules=["query"], feedforward_modules=[], task_type="SEQ_CLS")
    folder = Folder(tmp_path, config, "bert-task")
    folder.edit(task_type="FEATURE_EXTRACTION")
    folder.refused(registry, errors.InvalidArtifact, "publish a classifier as a head")


def test_feedforward_modules_as_a_regular_expression_are_refused(
    tmp_path: Path, registry: Registry
) -> None:
    config = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    folder = Folder(tmp_path, config)
    folder.edit(feedforward_modules=".*q_proj")
    folder.refused(registry, errors.InvalidArtifact, "feedforward_modules .* not a list of names")


def test_an_ia3_option_that_is_not_served_is_refused_by_name(
    tmp_path: Path, registry: Registry
) -> None:
    folder = Folder(tmp_path, IA3Config(target_modules=["q_proj"], feedforward_modules=[]))
    folder.edit(an_option_of_next_year="on")
    folder.refused(registry, errors.InvalidArtifact, "an_option_of_next_year")
