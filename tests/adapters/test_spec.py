"""A part's config is strict, and its bytes must be exactly what the config promises on the base."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.kinds import KINDS, parse_spec
from rootstock_adapters.lora.spec import LoraSpec
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
        ("lora", LORA | {"use_dora": True}, "lora: use_dora: "),
        ("lora", LORA | {"target_modules": []}, "lora: target_modules: "),
        ("head", HEAD | {"labels": ["one"]}, "head: labels: "),
        ("head", HEAD | {"labels": ["one", "one"]}, "labels must be distinct"),
        ("head", HEAD | {"labels": ["", "one"]}, r"head: labels\.0: "),
        ("head", HEAD | {"pooling": "median"}, "head: pooling: "),
        ("head", HEAD | {"hidden": 0}, "head: hidden: "),
        ("head", HEAD | {"activation": "step"}, "head: activation: "),
        ("head", {k: v for k, v in HEAD.items() if k != "normalize"}, "head: normalize: "),
        ("pickle", {}, r"unknown kind 'pickle' \(known: .*head, lora\)"),
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


def test_a_module_that_the_base_lacks_is_named() -> None:
    spec = parse_spec("lora", LORA | {"target_modules": ["layers.7.mlp.up_proj"]})
    with pytest.raises(ArtifactError, match=r"tiny has no linear named layers\.7\.mlp\.up_proj"):
        spec.tensor_shapes(CARD)


def test_scaling_is_alpha_over_rank_and_over_its_root_for_rslora() -> None:
    plain = LoraSpec(r=4, lora_alpha=8, target_modules=("x",))
    assert plain.scaling == 2.0
    assert plain.model_copy(update={"use_rslora": True}).scaling == 4.0


def test_every_kind_survives_its_own_json() -> None:
    specs = {"head": HeadSpec(**HEAD), "lora": LoraSpec(**LORA)}
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
