"""A folder that PEFT saved becomes a version of the same values; what cannot be is named."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.kinds import parse_spec
from rootstock_adapters.lora.spec import LoraSpec
from rootstock_registry import Registry, errors
from safetensors.torch import load, load_file, save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL, num_key_value_heads=1)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2)),
    "bert": lambda: BertModel(BertConfig(**SMALL)),
    "bert-task": lambda: BertForSequenceClassification(BertConfig(**SMALL)),
}


class Saved:
    """A tiny base folder, and an adapter folder that PEFT saved for it."""

    def __init__(self, path: Path, kind: str = "llama", **options: Any) -> None:
        torch.manual_seed(0)
        model = MODELS[kind]()
        model.save_pretrained(path / "base")
        self.card = BaseCard.read(path / "base", "tiny")
        fan = {"fan_in_fan_out": True} if kind == "gpt2" else {}
        wrapped = get_peft_model(model, LoraConfig(**({"r": 4} | fan | options)))
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter)
        self.folder = path / "adapter"
        wrapped.save_pretrained(self.folder)
        self.state: dict[str, torch.Tensor] = get_peft_model_state_dict(wrapped)

    def edit(self, **changes: Any) -> None:
        file = self.folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    def edit_tensors(
        self, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
    ) -> None:
        file = self.folder / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def saved(llama: Saved, tmp_path: Path) -> Saved:
    mine = copy.copy(llama)
    mine.folder = shutil.copytree(llama.folder, tmp_path / "adapter")
    return mine


def refuse(registry: Registry, saved: Saved, error: type[errors.RegistryError], words: str) -> None:
    with pytest.raises(error, match=words):
        registry.import_peft("local", "triage", saved.folder, saved.card)
    assert registry.adapters("local") == []


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"target_modules": "all-linear", "use_rslora": True}),
        ("llama", {"target_modules": r".*\.(q_proj|up_proj)"}),
        ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
        ("llama", {"target_modules": ["mlp.up_proj", "o_proj"], "lora_alpha": 3}),
        ("llama", {"init_lora_weights": "gaussian", "lora_dropout": 0.1}),
        ("gpt2", {"task_type": "CAUSAL_LM"}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"]}),
        ("bert", {"task_type": "FEATURE_EXTRACTION"}),
        ("bert-task", {"target_modules": ["query", "intermediate.dense"]}),
    ],
)
def test_what_peft_saved_is_published_with_the_same_values(
    kind: str, options: dict[str, Any], tmp_path: Path, registry: Registry
) -> None:
    saved = Saved(tmp_path, kind, **options)
    version = registry.import_peft("local", "triage", saved.folder, saved.card, promote="prod")
    [part] = version.manifest.parts
    spec = parse_spec(part.kind, part.config)
    assert isinstance(spec, LoraSpec)
    assert (spec.r, spec.lora_alpha) == (4, options.get("lora_alpha", 8))
    assert spec.use_rslora == options.get("use_rslora", False)
    tensors = load(registry.blobs.get(part.blob))
    prefix = "base_model.model."
    theirs = {
        saved.card.module_path(name.removeprefix(prefix)): value
        for name, value in saved.state.items()
    }
    assert tensors.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(tensors[name], value, rtol=0, atol=0)
    assert {f"{m}.lora_A.weight" for m in spec.target_modules} <= tensors.keys()
    assert version.manifest.lineage.source == "peft folder"


def test_importing_twice_is_one_version(registry: Registry, saved: Saved) -> None:
    versions = [registry.import_peft("local", "triage", saved.folder, saved.card) for _ in range(2)]
    assert versions[0] == versions[1]


def test_bf16_weights_are_kept_as_they_are(registry: Registry, saved: Saved) -> None:
    saved.edit_tensors(lambda tensors: {n: t.bfloat16() for n, t in tensors.items()})
    version = registry.import_peft("local", "triage", saved.folder, saved.card)
    assert {t.dtype for t in version.manifest.parts[0].tensors.values()} == {"BF16"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "ADALORA"),
        ("peft_type", None),
        ("bias", "some"),
        ("bias", ["all"]),
        ("use_dora", True),
        ("use_dora", "yes"),
        ("lora_bias", True),
        ("use_qalora", True),
        ("modules_to_save", ["lm_head"]),
        ("modules_to_save", "lm_head"),
        ("rank_pattern", {"q_.*": 4}),
        ("rank_pattern", ["q_proj"]),
        ("alpha_pattern", {"(q|v)_proj": 8}),
        ("alpha_pattern", {"q_proj": 0}),
        ("alpha_pattern", {"q_proj": "8"}),
        ("layer_replication", [[0, 2]]),
        ("megatron_config", {"x": 1}),
        ("target_parameters", ["experts.up"]),
        ("trainable_token_indices", [1]),
        ("alora_invocation_tokens", [1, 2]),
        ("loftq_config", {"loftq_bits": 4}),
        ("corda_config", {"corda_method": "ipm"}),
        ("kasa_config", {"beta": 1e-4}),
        ("arrow_config", {"top_k": 3}),
        ("use_bdlora", {"nblocks": 2}),
        ("ensure_weight_tying", True),
        ("an_option_of_next_year", "on"),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", ["gaussian"]),
        ("init_lora_weights", 1),
        ("r", 0),
        ("r", "4"),
        ("r", True),
        ("lora_alpha", -1),
        ("lora_alpha", None),
    ],
)
def test_an_option_that_is_not_served_is_refused_by_name(
    registry: Registry, saved: Saved, field: str, value: object
) -> None:
    saved.edit(**{field: value})
    refuse(registry, saved, errors.InvalidArtifact, field)


def test_an_unknown_option_that_is_off_does_not_matter(registry: Registry, saved: Saved) -> None:
    saved.edit(an_option_of_next_year=None, another=False, a_third={})
    registry.import_peft("local", "triage", saved.folder, saved.card)


def test_nothing_that_the_config_names_is_fetched_or_opened(
    registry: Registry, saved: Saved
) -> None:
    saved.edit(base_model_name_or_path="/etc/passwd", revision="../..")
    version = registry.import_peft("local", "triage", saved.folder, saved.card)
    assert b"passwd" not in registry.blobs.get(version.digest)


def test_pickled_weights_are_refused_in_words(registry: Registry, saved: Saved) -> None:
    (saved.folder / "adapter_model.safetensors").unlink()
    (saved.folder / "adapter_model.bin").write_bytes(pickle.dumps({}))
    refuse(registry, saved, errors.InvalidArtifact, r"pickled weights.*safe_serialization=True")


def test_pickled_weights_under_the_right_name_are_refused(registry: Registry, saved: Saved) -> None:
    torch.save(saved.state, saved.folder / "adapter_model.safetensors")
    refuse(registry, saved, errors.InvalidArtifact, "adapter_model.safetensors: ")


def test_a_folder_without_config_or_weights_is_refused(
    registry: Registry, saved: Saved, tmp_path: Path
) -> None:
    (saved.folder / "adapter_model.safetensors").unlink()
    refuse(registry, saved, errors.InvalidArtifact, r"has no adapter_model\.safetensors")
    (saved.folder / "adapter_config.json").unlink()
    refuse(registry, saved, errors.InvalidArtifact, r"no adapter_config\.json")
    saved.folder = tmp_path / "nowhere"
    refuse(registry, saved, errors.InvalidArtifact, "is not a PEFT folder")


@pytest.mark.parametrize("content", ["", "[]", "{", '{"r": 4, "r": 8}', "[" * 100_000, '"\\ud800"'])
def test_a_config_that_is_no_object_is_refused(
    registry: Registry, saved: Saved, content: str
) -> None:
    (saved.folder / "adapter_config.json").write_text(content)
    refuse(registry, saved, errors.InvalidArtifact, "adapter_config.json cannot be read")


def test_every_truncation_of_the_weights_is_refused(registry: Registry, saved: Saved) -> None:
    file = saved.folder / "adapter_model.safetensors"
    data = file.read_bytes()
    for length in range(0, len(data), 41):
        file.write_bytes(data[:length])
        refuse(registry, saved, errors.InvalidArtifact, "adapter_model.safetensors: ")


def test_a_module_that_the_base_lacks_is_named_with_the_base(
    registry: Registry, saved: Saved
) -> None:
    saved.edit_tensors(
        lambda tensors: {n.replace("layers.1", "layers.9"): t for n, t in tensors.items()}
    )
    refuse(registry, saved, errors.WrongBase, r"layers\.9\.self_attn\.q_proj.*'tiny' has no such")


def test_an_adapter_for_a_wider_base_is_the_wrong_base(registry: Registry, saved: Saved) -> None:
    saved.edit_tensors(
        lambda tensors: {
            n: torch.cat([t, t], dim=1) if "lora_A" in n else t for n, t in tensors.items()
        }
    )
    refuse(registry, saved, errors.WrongBase, r"has shape \[4, 32\], expected \[4, 16\]")


def test_half_a_pair_of_matrices_is_refused(registry: Registry, saved: Saved) -> None:
    saved.edit_tensors(
        lambda tensors: {n: t for n, t in tensors.items() if "1.self_attn.q_proj.lora_B" not in n}
    )
    refuse(registry, saved, errors.InvalidArtifact, r"q_proj has no lora_B\.weight")


def test_a_targeted_layer_without_weights_is_refused(registry: Registry, saved: Saved) -> None:
    saved.edit_tensors(lambda tensors: {n: t for n, t in tensors.items() if "layers.1" not in n})
    refuse(registry, saved, errors.InvalidArtifact, r"targets module layers\.1.*has no weights")


def test_weights_that_are_not_targeted_are_refused(registry: Registry, saved: Saved) -> None:
    saved.edit(target_modules=["q_proj"])
    refuse(registry, saved, errors.InvalidArtifact, r"v_proj is not among .*target_modules")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "has no lora_embedding_B"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector", "use_dora"),
        ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", "outside the base"),
        ("base_model.model.model.layers.0.self_attn.q_proj.ia3_l", "is not one of those"),
        ("base_model.model.model.layers.0.self_attn.q_proj.bias", "bias is none"),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", "is not one of those"),
        ("weight", "is not one of those"),
    ],
)
def test_a_tensor_that_has_no_place_is_named(
    registry: Registry, saved: Saved, name: str, words: str
) -> None:
    saved.edit_tensors(lambda tensors: tensors | {name: torch.ones(4, 4)})
    refuse(registry, saved, errors.InvalidArtifact, words)


def test_two_tensors_for_one_module_are_refused(registry: Registry, saved: Saved) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    other = name.replace("model.model.model", "model.model")
    saved.edit_tensors(lambda tensors: tensors | {other: tensors[name].clone()})
    refuse(registry, saved, errors.InvalidArtifact, "two tensors belong to one module")


def test_an_endless_file_is_not_read_to_its_end(registry: Registry, saved: Saved) -> None:
    with (saved.folder / "adapter_model.safetensors").open("r+b") as stream:
        stream.truncate(1 << 40)  # sparse: a terabyte that takes no space
    refuse(registry, saved, errors.WrongBase, "larger than any adapter for base 'tiny'")


def test_values_that_are_not_finite_are_refused(registry: Registry, saved: Saved) -> None:
    saved.edit_tensors(lambda tensors: {n: t * np.nan for n, t in tensors.items()})
    refuse(registry, saved, errors.InvalidArtifact, "not finite")
