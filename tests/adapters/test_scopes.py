"""What scopes and placements mean, on every architecture, against the modules that are there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rootstock_adapters.architectures import ARCHITECTURES
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.bottleneck.spec import sublayer_outputs
from rootstock_adapters.delta.op import between_folders, difference
from rootstock_adapters.delta.spec import DeltaSpec, canonical, parameters_of
from rootstock_adapters.errors import ArtifactError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
)

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0,
    "max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
OWN_SIZES = {
    "gpt2": {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 32},
    "distilbert": {"dim": 16, "hidden_dim": 24, "n_layers": 3, "n_heads": 2},
    "albert": {"embedding_size": 8},
    "electra": {"embedding_size": 8},
    "modernbert": {"cls_token_id": 1, "sep_token_id": 2},
    "phi": {"num_key_value_heads": 2},
    "opt": {"word_embed_proj_dim": 16, "ffn_dim": 24},
}
# What is saved, and what of it a server computes with.
FAMILIES = {
    "generate": (AutoModelForCausalLM, AutoModelForCausalLM),
    "encode": (AutoModelForMaskedLM, AutoModel),
    "text2text": (AutoModelForSeq2SeqLM, AutoModelForSeq2SeqLM),
}
KNOWN = sorted(ARCHITECTURES)
PAIRS = ("m2m_100", "t5")  # an encoder and a decoder
ONE_STACK = [name for name in KNOWN if name not in PAIRS]
PER_LAYER = {"albert": 1}  # its three layers are one


def config_of(model_type: str):
    if model_type in PAIRS:
        tiny = json.loads((Path(__file__).parents[1] / "server" / "tiny_bases.json").read_text())
        return AutoConfig.for_model(model_type, **tiny[model_type])
    sizes = SIZES | OWN_SIZES.get(model_type, {})
    if model_type in ("gpt2", "distilbert"):
        sizes = {k: v for k, v in sizes.items() if k.endswith("_id") or k == "vocab_size"}
        sizes |= {"max_position_embeddings": 32} if model_type == "distilbert" else {}
        sizes |= OWN_SIZES[model_type]
    return AutoConfig.for_model(model_type, **sizes)


@pytest.fixture
def made(tmp_path: Path) -> Callable[[str], tuple[BaseCard, Path, torch.nn.Module]]:
    """A tiny task model in a folder, its card, and the modules that a server computes with."""

    def make(model_type: str) -> tuple[BaseCard, Path, torch.nn.Module]:
        torch.manual_seed(0)
        task = ARCHITECTURES[model_type].task
        family, server = FAMILIES[task]
        family.from_config(config_of(model_type)).save_pretrained(tmp_path / model_type)
        card = BaseCard.read(tmp_path / model_type, model_type)
        pooler = {"add_pooling_layer": False} if model_type in ("bert", "roberta", "albert") else {}
        return card, tmp_path / model_type, server.from_pretrained(tmp_path / model_type, **pooler)

    return make


@pytest.mark.parametrize("model_type", KNOWN)
def test_full_is_every_parameter_that_is_computed_with(made, model_type):
    card, _, model = made(model_type)
    names = {card.module_path(name) for name, _ in model.named_parameters()}
    found = parameters_of(card, "full")
    positions = {name for name in names if "relative_attention_bias" in name}  # T5's
    assert {canonical(name) for name in found} == names - positions
    assert bool(positions) == (model_type == "t5")
    assert set(found) <= card.parameters.keys()


@pytest.mark.parametrize("model_type", KNOWN)
def test_biases_and_norms_are_what_their_modules_say(made, model_type):
    card, _, model = made(model_type)
    names = {card.module_path(name) for name, _ in model.named_parameters()}
    norms = {
        f"{card.module_path(path)}.{name}"
        for path, module in model.named_modules()
        if "Norm" in type(module).__name__
        for name, _ in module.named_parameters(recurse=False)
    }
    assert set(parameters_of(card, "norms")) == norms
    biases = {name for name in names if name.endswith(".bias")}
    if biases:
        assert set(parameters_of(card, "biases")) == biases
    else:
        with pytest.raises(ArtifactError, match="no parameters in the scope biases"):
            parameters_of(card, "biases")


@pytest.mark.parametrize("model_type", [name for name in ONE_STACK if name not in PER_LAYER])
def test_the_top_layers_are_theirs_and_the_norm_above_them(made, model_type):
    card, _, model = made(model_type)
    names = [card.module_path(name) for name, _ in model.named_parameters()]
    top = set(parameters_of(card, "top-k", 1))
    assert {name for name in names if ".2." in name} <= top
    assert not any(".0." in name or ".1." in name or "embed" in name for name in top)
    above = {name for name in top if ".2." not in name}
    if card.task == "generate":
        assert above and all("norm" in name or "ln_f" in name for name in above)
    assert set(parameters_of(card, "top-k", 2)) > top


@pytest.mark.parametrize("model_type", ONE_STACK)
def test_placements_are_the_linears_that_end_sublayers(made, model_type):
    card, _, _ = made(model_type)
    layers = PER_LAYER.get(model_type, card.layers)
    both = sublayer_outputs(card, "houlsby")
    assert len(both) == 2 * layers
    assert len(set(sublayer_outputs(card, "pfeiffer"))) == layers
    assert set(sublayer_outputs(card, "pfeiffer")) < set(both)
    assert {card.linears[path][0] for path in both} == {16}
    if model_type not in PER_LAYER:
        assert sublayer_outputs(card, "houlsby", [2]) == both[-2:]
        with pytest.raises(ArtifactError, match="no layer 3: it has 0 to 2"):
            sublayer_outputs(card, "houlsby", [3])


@pytest.mark.parametrize("model_type", PAIRS)
def test_a_pair_has_three_sublayers_in_its_decoder(made, model_type):
    card, _, _ = made(model_type)
    encoder, decoder = 2, 3  # layers
    assert len(sublayer_outputs(card, "houlsby")) == 2 * encoder + 3 * decoder
    assert len(sublayer_outputs(card, "pfeiffer")) == encoder + decoder
    assert len(sublayer_outputs(card, "pfeiffer", [0])) == 2
    with pytest.raises(ArtifactError, match="two stacks of layers"):
        parameters_of(card, "top-k", 1)


def test_layers_that_share_their_weights_cannot_be_chosen(made):
    card, _, _ = made("albert")
    for choose in (
        lambda: sublayer_outputs(card, "pfeiffer", [1]),
        lambda: parameters_of(card, "top-k", 1),
    ):
        with pytest.raises(ArtifactError, match="share their weights"):
            choose()


@pytest.mark.parametrize(("model_type", "tied"), [("llama", False), ("gpt2", True)])
def test_a_card_knows_whether_the_output_is_the_embedding(made, model_type, tied):
    card, _, _ = made(model_type)
    assert card.tied is tied
    assert DeltaSpec.of(card, "full").tied_output is tied
    assert not DeltaSpec.of(card, "norms").tied_output


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "bert"])
def test_a_tuned_folder_less_its_base_is_the_delta(made, tmp_path, model_type):
    card, path, _ = made(model_type)
    decoder = card.task == "generate"
    model = (AutoModelForCausalLM if decoder else AutoModelForMaskedLM).from_pretrained(path)
    spec = DeltaSpec.of(card, "norms")
    for name, parameter in model.named_parameters():
        if card.module_path(name) in spec.parameters:
            parameter.data += 0.5
    model.save_pretrained(tmp_path / "tuned")
    tensors = between_folders(spec, card, tmp_path / "tuned", path)
    assert tensors.keys() == set(spec.parameters)
    assert all((tensor - 0.5).abs().max() < 1e-6 for tensor in tensors.values())


def test_a_change_outside_the_scope_is_named(made):
    card, _, model = made("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.model.layers[1].mlp.up_proj.weight.data += 1
    with pytest.raises(ArtifactError, match=r"layers\.1\.mlp\.up_proj\.weight was changed too"):
        difference(DeltaSpec.of(card, "norms"), card, model.state_dict(), before)


def test_an_output_that_was_untied_while_tuning_is_refused(made):
    card, _, model = made("gpt2")
    before = model.state_dict()
    after = before | {"lm_head.weight": before["lm_head.weight"] + 1}
    with pytest.raises(ArtifactError, match="its embedding no more"):
        difference(DeltaSpec.of(card, "full"), card, after, before)


def test_a_model_without_one_of_the_parameters_is_refused(made):
    card, _, model = made("llama")
    state = model.state_dict()
    less = {name: tensor for name, tensor in state.items() if name != "model.norm.weight"}
    with pytest.raises(ArtifactError, match=r"norm\.weight is missing"):
        difference(DeltaSpec.of(card, "full"), card, less, state)
