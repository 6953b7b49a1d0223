"""Configs of bottlenecks and deltas: strict, and true of the base they are for."""

from __future__ import annotations

from typing import Any

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.bottleneck.spec import BottleneckSpec
from rootstock_adapters.delta.spec import DeltaSpec
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.kinds import parse_spec

DOWN, O_PROJ = "layers.0.mlp.down_proj", "layers.0.self_attn.o_proj"
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
    linears={DOWN: (8, 12), O_PROJ: (8, 8), "layers.0.mlp.up_proj": (12, 8)},
    parameters={
        "embed_tokens.weight": (32, 8),
        f"{DOWN}.weight": (8, 12),
        f"{O_PROJ}.weight": (8, 8),
        f"{O_PROJ}.bias": (8,),
        "layers.0.mlp.up_proj.weight": (12, 8),
        "layers.0.input_layernorm.weight": (8,),
        "layers.0.self_attn.rotary_emb.inv_freq": (4,),
        "norm.weight": (8,),
    },
    tied=True,
)
BLOCK: dict[str, Any] = {
    "placement": "houlsby", "size": 4, "nonlinearity": "relu", "target_modules": [DOWN, O_PROJ],
}  # fmt: skip
NORMS: dict[str, Any] = {"scope": "norms", "parameters": ["norm.weight"]}


@pytest.mark.parametrize(
    ("kind", "config", "words"),
    [
        ("bottleneck", BLOCK | {"placement": "parallel"}, "bottleneck: placement: "),
        ("bottleneck", BLOCK | {"size": 0}, "bottleneck: size: "),
        ("bottleneck", BLOCK | {"nonlinearity": "tanh"}, "bottleneck: nonlinearity: "),
        ("bottleneck", BLOCK | {"target_modules": []}, "bottleneck: target_modules: "),
        ("bottleneck", BLOCK | {"reduction_factor": 16}, "bottleneck: reduction_factor: "),
        ("delta", NORMS | {"scope": "attention"}, "delta: scope: "),
        ("delta", NORMS | {"parameters": []}, "delta: parameters: "),
        ("delta", NORMS | {"k": 1}, "the scope top-k needs it, and no other"),
        ("delta", NORMS | {"scope": "top-k"}, "the scope top-k needs it, and no other"),
    ],
)
def test_a_bad_config_of_a_block_is_refused_by_field(kind, config, words):
    with pytest.raises(ArtifactError, match=words):
        parse_spec(kind, config)


def test_a_bottleneck_has_four_tensors_for_each_linear():
    assert parse_spec("bottleneck", BLOCK | {"target_modules": [DOWN]}).tensor_shapes(CARD) == {
        f"{DOWN}.down.weight": (4, 8),
        f"{DOWN}.down.bias": (4,),
        f"{DOWN}.up.weight": (8, 4),
        f"{DOWN}.up.bias": (8,),
    }


@pytest.mark.parametrize(
    ("change", "module"),
    [
        ({"target_modules": ["layers.0.mlp.up_proj"]}, r"layers\.0\.mlp\.up_proj"),
        ({"target_modules": ["layers.1.mlp.down_proj"]}, r"layers\.1\.mlp\.down_proj"),
        ({"placement": "pfeiffer"}, r"self_attn\.o_proj for the placement pfeiffer"),
    ],
)
def test_a_linear_that_ends_no_sublayer_of_the_placement_is_named(change, module):
    with pytest.raises(ArtifactError, match=module):
        parse_spec("bottleneck", BLOCK | change).tensor_shapes(CARD)


def test_a_delta_has_the_shapes_of_the_parameters():
    spec = DeltaSpec.of(CARD, "full")
    wanted = {n: s for n, s in CARD.parameters.items() if "inv_freq" not in n}
    assert spec.tensor_shapes(CARD) == wanted
    assert spec.tied_output


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (NORMS | {"parameters": ["norm.bias"]}, r"no parameter named norm\.bias"),
        (NORMS | {"parameters": [f"{O_PROJ}.bias"]}, "is not in the scope norms"),
        (
            {"scope": "full", "parameters": ["layers.0.self_attn.rotary_emb.inv_freq"]},
            "inv_freq is not in the scope full",
        ),
        ({"scope": "full", "parameters": ["embed_tokens.weight"]}, "tied_output: is False"),
        (NORMS | {"tied_output": True}, "tied_output: is True, which is not so on base tiny"),
    ],
)
def test_a_delta_that_is_not_of_this_base_is_refused(config, words):
    with pytest.raises(ArtifactError, match=words):
        parse_spec("delta", config).tensor_shapes(CARD)


def test_blocks_survive_their_own_json():
    specs = {
        "bottleneck": BottleneckSpec(**(BLOCK | {"target_modules": (DOWN,)})),
        "delta": DeltaSpec.of(CARD, "top-k", 1),
    }
    for kind, spec in specs.items():
        assert parse_spec(kind, spec.model_dump(mode="json")) == spec
