"""A part's config is strict, and its bytes must be exactly what the config promises on the base."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.ia3.spec import Ia3Spec
from rootstock_adapters.kinds import KINDS, parse_spec
from rootstock_adapters.lora.spec import LoraSpec
from rootstock_adapters.op import prepare
from rootstock_adapters.soft_prompt.spec import SoftPromptSpec
from safetensors.numpy import save

CARD = BaseCard(
    name="tiny",
    fingerprint="sha256:" + "0" * 64,
    model_type="llama",
    task="generate",
    hidden_size=8,
    layers=1,
    vocab_size=32,
    context_length=16,
    pooling="last",
    normalize=True,
    linears={"layers.0.mlp.up_proj": (12, 8), "layers.0.mlp.down_proj": (8, 12)},
)
HEAD: dict[str, Any] = {"pooling": "mean", "normalize": True, "labels": ["no", "yes"]}
LORA: dict[str, Any] = {"r": 2, "lora_alpha": 4, "target_modules": ["layers.0.mlp.up_proj"]}
UP, DOWN = "layers.0.mlp.up_proj", "layers.0.mlp.down_proj"
IA3: dict[str, Any] = {"target_modules": [UP, DOWN], "feedforward_modules": [DOWN]}
PROMPT: dict[str, Any] = {
    "template": 'As JSON, {"a": 1}: {input}; {input}?',
    "system": "Be brief.",
    "examples": [{"input": "one", "output": "two"}],
}
SOFT: dict[str, Any] = {"method": "prompt_tuning", "num_virtual_tokens": 3}
A, B = "layers.0.mlp.up_proj.lora_A.weight", "layers.0.mlp.up_proj.lora_B.weight"


def zeros(**shapes: tuple[int, ...]) -> bytes:
    return save({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


def test_a_head_of_the_right_shapes_fits() -> None:
    parse_spec("head", HEAD).check(zeros(weight=(2, 8), bias=(2,)), CARD)


def test_a_lora_of_the_right_shapes_fits() -> None:
    found = parse_spec("lora", LORA).check(zeros(**{A: (2, 8), B: (12, 2)}), CARD)
    assert {name: tensor.shape for name, tensor in found.items()} == {A: (2, 8), B: (12, 2)}


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        ("lora", LORA | {"r": 0}, "lora: r: "),
        ("lora", LORA | {"r": 257}, "lora: r: "),
        ("lora", LORA | {"lora_alpha": 0}, "lora: lora_alpha: "),
        ("lora", LORA | {"r": "2"}, "lora: r: "),
        ("lora", LORA | {"r": True}, "lora: r: "),
        ("lora", LORA | {"lora_alpha": float("inf")}, "lora: the config has no JSON form"),
        ("lora", LORA | {"target_modules": {"up_proj"}}, "lora: the config has no JSON form"),
        ("lora", LORA | {"use_dora": 1}, "lora: use_dora: "),
        ("lora", LORA | {"lora_bias": True}, "lora: lora_bias: "),
        ("lora", LORA | {"rank_pattern": {"x": 2}}, "rank_pattern: x is not in target_modules"),
        ("lora", LORA | {"rank_pattern": {UP: 0}}, r"lora: rank_pattern\."),
        ("lora", LORA | {"alpha_pattern": {UP: 0}}, r"lora: alpha_pattern\."),
        ("lora", LORA | {"biases": [UP], "modules_to_save": [UP]}, f"biases: {UP} is in modules"),
        ("ia3", IA3 | {"target_modules": []}, "ia3: target_modules: "),
        ("ia3", IA3 | {"feedforward_modules": ["x"]}, "feedforward_modules: x is not in target"),
        ("ia3", IA3 | {"modules_to_save": [UP]}, f"modules_to_save: {UP} is in target_modules"),
        ("lora", LORA | {"target_modules": []}, "lora: target_modules: "),
        ("head", HEAD | {"labels": ["one"]}, "head: labels: "),
        ("head", HEAD | {"labels": ["one", "one"]}, "labels must be distinct"),
        ("head", HEAD | {"labels": ["", "one"]}, r"head: labels\.0: "),
        ("head", HEAD | {"pooling": "median"}, "head: pooling: "),
        ("head", HEAD | {"hidden": 0}, "head: hidden: "),
        ("head", HEAD | {"activation": "step"}, "head: activation: "),
        ("head", {k: v for k, v in HEAD.items() if k != "normalize"}, "head: normalize: "),
        ("prompt", PROMPT | {"template": "{inputs}"}, "prompt: template: .*must contain {input}"),
        ("prompt", PROMPT | {"examples": [{"input": "x"}]}, r"prompt: examples\.0\.output: "),
        ("prompt", {"template": "{input}"}, "this prompt is empty"),
        ("prompt", PROMPT | {"engine": "jinja"}, "prompt: engine: "),
        ("soft_prompt", SOFT | {"num_virtual_tokens": 0}, "soft_prompt: num_virtual_tokens: "),
        ("soft_prompt", SOFT | {"method": "p_tuning"}, "soft_prompt: method: "),
        ("pickle", {}, r"unknown kind 'pickle' \(known: .*head, .*lora"),
    ],
)
def test_a_bad_config_is_refused_by_field(kind: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(ArtifactError, match=words):
        parse_spec(kind, config)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({A: (2, 8)}, "lora_B.weight is missing"),
        ({A: (2, 8), B: (12, 2), "extra": (1,)}, "tensor extra has no place"),
        ({A: (2, 9), B: (12, 2)}, r"has shape \[2, 9\], expected \[2, 8\]"),
        ({A: (2, 8), B: (2, 12)}, r"has shape \[2, 12\], expected \[12, 2\]"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    tensors: dict[str, tuple[int, ...]], words: str
) -> None:
    with pytest.raises(ArtifactError, match=words):
        parse_spec("lora", LORA).check(zeros(**tensors), CARD)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_a_module_that_the_base_lacks_is_named(kind: str) -> None:
    config = {"lora": LORA, "ia3": {}}[kind] | {"target_modules": ["layers.7.mlp.up_proj"]}
    with pytest.raises(ArtifactError, match=r"tiny has no linear.* named layers\.7\.mlp\.up_proj"):
        parse_spec(kind, config).tensor_shapes(CARD)


def test_ia3_has_a_factor_for_every_output_or_for_every_input_of_a_feedforward_module() -> None:
    shapes = parse_spec("ia3", IA3).tensor_shapes(CARD)
    assert shapes == {f"{UP}.ia3_l": (12, 1), f"{DOWN}.ia3_l": (1, 12)}


FULL = CARD.model_copy(
    update={
        "parameters": {
            "embed_tokens.weight": (32, 8),
            f"{UP}.weight": (12, 8),
            f"{UP}.bias": (12,),
            f"{DOWN}.weight": (8, 12),
            "layers.0.input_layernorm.weight": (8,),
            "norm.weight": (8,),
        }
    }
)


def test_a_lora_of_everything_has_the_shapes_that_the_base_gives_it() -> None:
    config = LORA | {
        "use_dora": True,
        "target_modules": [UP, "lm_head"],
        "rank_pattern": {"lm_head": 5},
        "modules_to_save": ["embed_tokens", "norm"],
        "biases": [UP],
    }
    assert parse_spec("lora", config).tensor_shapes(FULL) == {
        f"{UP}.lora_A.weight": (2, 8),
        f"{UP}.lora_B.weight": (12, 2),
        f"{UP}.lora_magnitude_vector": (12,),
        f"{UP}.bias": (12,),
        "lm_head.lora_A.weight": (5, 8),
        "lm_head.lora_B.weight": (32, 5),
        "lm_head.lora_magnitude_vector": (32,),
        "embed_tokens.weight": (32, 8),
        "norm.weight": (8,),
    }


def test_an_embeddings_update_has_a_column_for_every_token() -> None:
    config = LORA | {"target_modules": ["embed_tokens"]}
    assert parse_spec("lora", config).tensor_shapes(FULL) == {
        "embed_tokens.lora_embedding_A": (2, 32),
        "embed_tokens.lora_embedding_B": (8, 2),
    }


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"modules_to_save": ["score"]}, "modules_to_save: base tiny runs no module score"),
        ({"modules_to_save": ["layers.0.mlp"]}, "runs no module layers.0.mlp with weights"),
        ({"biases": [DOWN]}, f"biases: base tiny has no {DOWN}.bias"),
        ({"use_dora": True, "target_modules": ["embed_tokens"]}, "use_dora: not served on an emb"),
    ],
)
def test_what_the_base_does_not_have_or_do_is_refused_by_name(
    config: dict[str, Any], words: str
) -> None:
    with pytest.raises(ArtifactError, match=words):
        parse_spec("lora", LORA | config).tensor_shapes(FULL)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_a_tensor_that_nothing_reads_fails_the_load(kind: str) -> None:
    spec = parse_spec(kind, LORA if kind == "lora" else IA3)
    tensors = {name: torch.zeros(shape) for name, shape in spec.tensor_shapes(FULL).items()}
    assert prepare(spec, tensors)
    with pytest.raises(ArtifactError, match=f"{kind}: tensor stray would have no effect"):
        prepare(spec, tensors | {"stray": torch.zeros(2)})


def test_scaling_is_alpha_over_rank_and_over_its_root_for_rslora() -> None:
    plain = LoraSpec(r=4, lora_alpha=8, target_modules=("x",))
    assert plain.scaling("x") == 2.0
    assert plain.model_copy(update={"use_rslora": True}).scaling("x") == 4.0


def test_patterns_decide_rank_and_alpha_of_their_modules_alone() -> None:
    patterns = {"rank_pattern": {"x": 16}, "alpha_pattern": {"y": 2}}
    spec = LoraSpec(r=4, lora_alpha=8, target_modules=("x", "y", "z"), **patterns)
    assert [spec.rank(module) for module in "xyz"] == [16, 4, 4]
    assert [spec.scaling(module) for module in "xyz"] == [0.5, 0.5, 2.0]


def test_every_kind_survives_its_own_json() -> None:
    specs = {
        "head": HeadSpec(**HEAD),
        "ia3": Ia3Spec(**IA3),
        "lora": LoraSpec(**LORA),
        "prompt": parse_spec("prompt", PROMPT),
        "soft_prompt": SoftPromptSpec(**SOFT),
    }
    assert specs.keys() <= KINDS.keys()
    for kind, spec in specs.items():
        assert parse_spec(kind, spec.model_dump(mode="json")) == spec


def test_a_head_from_before_hidden_layers_still_loads() -> None:
    spec = parse_spec("head", HEAD)
    assert isinstance(spec, HeadSpec)
    assert (spec.hidden, spec.per_token) == (None, False)


def test_a_head_with_a_hidden_layer_has_four_tensors() -> None:
    spec = parse_spec("head", HEAD | {"hidden": 5, "activation": "relu"})
    assert spec.tensor_shapes(CARD) == {
        "weight": (2, 5), "bias": (2,), "hidden.weight": (5, 8), "hidden.bias": (5,),
    }  # fmt: skip


def test_prompt_tuning_is_as_wide_as_the_input_embedding() -> None:
    narrow = CARD.model_copy(update={"parameters": {"embeddings.word_embeddings.weight": (32, 4)}})
    spec = SoftPromptSpec(**SOFT)
    assert spec.tensor_shapes(CARD) == {"prompt_embeddings": (3, 8)}
    assert spec.tensor_shapes(narrow) == {"prompt_embeddings": (3, 4)}
    assert spec.virtual_tokens == 3


def test_a_prefix_has_keys_and_values_of_the_key_heads_in_every_layer() -> None:
    grouped = {"layers.0.self_attn.q_proj": (8, 8), "layers.0.self_attn.k_proj": (4, 8)}
    base = CARD.model_copy(update={"linears": grouped, "layers": 5})
    spec = SoftPromptSpec(**SOFT | {"method": "prefix_tuning"})
    assert spec.tensor_shapes(base) == {"prompt_embeddings": (3, 5 * 2 * 4)}
    fused = base.model_copy(update={"linears": {"h.0.attn.c_attn": (24, 8)}})
    assert spec.tensor_shapes(fused) == {"prompt_embeddings": (3, 5 * 2 * 8)}


@pytest.mark.parametrize(
    ("config", "base", "words"),
    [
        (SOFT | {"num_virtual_tokens": 16}, {}, "no room in the context of tiny"),
        (SOFT | {"method": "prefix_tuning"}, {"task": "encode"}, "has none; use prompt_tuning"),
    ],
)
def test_a_soft_prompt_that_a_base_cannot_take_is_refused(
    config: dict[str, Any], base: dict[str, Any], words: str
) -> None:
    with pytest.raises(ArtifactError, match=words):
        SoftPromptSpec(**config).tensor_shapes(CARD.model_copy(update=base))
