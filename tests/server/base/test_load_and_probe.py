"""Every architecture that is let in proves itself when it is loaded; whatever fails says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rootstock_adapters.base_card import ARCHITECTURES, Architecture, BaseCard
from rootstock_adapters.errors import BaseError
from rootstock_server.backends.reference import Reference
from rootstock_server.base import probe
from rootstock_server.base.load import Base, load_model, prepare
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

SMALL = {
    "vocab_size": 120, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 128, "initializer_range": 0.2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
# Windows of 8 tokens and one layer of each sort: the probe's prompts are longer than that.
LAYERS = ["sliding_attention", "full_attention"]
CONFIGS = {
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": 8},
    "qwen2": GROUPED | {"use_sliding_window": True, "sliding_window": 8, "layer_types": LAYERS},
    "qwen3": GROUPED | {"head_dim": 16},
    "gemma2": GROUPED | {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16},
    "gemma3_text": GROUPED
    | {"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 16, "layer_types": LAYERS},
    "phi": GROUPED | {"num_key_value_heads": 4},
    "gpt2": {
        "vocab_size": 120, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128,
        "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2,
    },
    "gpt_neox": SMALL,
    "bert": SMALL,
    "roberta": SMALL | {"pad_token_id": 1},
    "distilbert": {
        "vocab_size": 120, "dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 4,
        "max_position_embeddings": 128, "initializer_range": 0.2,
    },
    "electra": SMALL | {"embedding_size": 32},
    "albert": SMALL | {"embedding_size": 32},
    "modernbert": SMALL | {"local_attention": 16, "layer_types": LAYERS[::-1]},
}  # fmt: skip

IGNORANT = {
    "falcon": SMALL | {"max_position_embeddings": 128},
    "gptj": {
        "vocab_size": 120, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128,
        "rotary_dim": 8, "initializer_range": 0.2,
    },
}  # fmt: skip


def make(folder: Path, model_type: str, config: dict[str, object]) -> BaseCard:
    """A random base whose norms and biases matter, too."""
    torch.manual_seed(0)
    family = AutoModel if ARCHITECTURES[model_type].task == "encode" else AutoModelForCausalLM
    model = family.from_config(AutoConfig.for_model(model_type, **config))
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return BaseCard.read(folder, model_type)


def probed(folder: Path, card: BaseCard, dtype: str = "float32") -> tuple[Base, float]:
    """What the engine's process does with a base before it answers anybody."""
    model = load_model(folder, card, dtype)
    prompts = probe.random_prompts(card.vocab_size, card.context_length)
    wanted = probe.expected(model, prompts)
    base = prepare(model, card)
    return base, probe.check(base, prompts, wanted)


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_every_known_architecture_passes_the_probe(tmp_path: Path, model_type: str) -> None:
    card = make(tmp_path, model_type, CONFIGS[model_type])
    _, error = probed(tmp_path, card)
    assert error < probe.TOLERANCE[torch.float32] / 5


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "bert", "modernbert"])
def test_bfloat16_bases_pass_the_probe(tmp_path: Path, model_type: str) -> None:
    card = make(tmp_path, model_type, CONFIGS[model_type])
    base, error = probed(tmp_path, card, "bfloat16")
    assert base.dtype == torch.bfloat16
    assert error < probe.TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_every_linear_of_the_card_is_a_place_for_adapters(tmp_path: Path, model_type: str) -> None:
    card = make(tmp_path, model_type, CONFIGS[model_type])
    base = prepare(load_model(tmp_path, card, "float32"), card)
    places = {
        path: (out, group.in_features)
        for group in base.groups
        for path, out in zip(group.paths, group.outs, strict=True)
    }
    assert card.linears.items() <= places.items()
    # The projections of narrow embeddings are linears of the base, but adapters leave them alone.
    assert all("embed" in path for path in places.keys() - card.linears.keys())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("model_type", ["llama", "bert"])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_rows_that_read_their_neighbours_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, dtype: str, scale: float
) -> None:
    """Also where a base's outputs are small: the error is judged relative to them."""
    card = make(tmp_path, model_type, CONFIGS[model_type])
    shrink_outputs(tmp_path, card, scale)

    def leaking(self, query, key, value, **arguments):
        out = right(self, query, key, value, **arguments)
        return 0.9 * out + 0.1 * out.roll(1, dims=0)

    name = "attend" if card.task == "generate" else "attend_bidirectional"
    right = getattr(Reference, name)
    assert probed(tmp_path, card, dtype)
    monkeypatch.setattr(Reference, name, leaking)
    with pytest.raises(BaseError, match="packed requests differ from single ones"):
        probed(tmp_path, card, dtype)


def shrink_outputs(folder: Path, card: BaseCard, scale: float) -> None:
    """Multiply what comes out by `scale`: the last norm's weights, or the output embedding."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    last = [n for n in tensors if n.startswith(("lm_head", "encoder.layer.1.output.LayerNorm"))]
    assert last
    for name in last:
        tensors[name] = tensors[name] * scale
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("model_type", ["falcon", "gptj"])
def test_an_architecture_that_ignores_our_attention_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    """They take the setting and go on with their own attention: packed rows would mix."""
    monkeypatch.setitem(ARCHITECTURES, model_type, Architecture("transformer", "generate"))
    card = make(tmp_path, model_type, IGNORANT[model_type])
    with pytest.raises(BaseError, match="not served"):
        probed(tmp_path, card)


def test_not_a_number_in_one_prompt_never_passes_the_probe(tmp_path: Path) -> None:
    card = make(tmp_path, "llama", CONFIGS["llama"])
    model = load_model(tmp_path, card, "float32")
    prompts = probe.random_prompts(card.vocab_size, card.context_length)
    wanted = probe.expected(model, prompts)
    [poison, *_] = set(prompts[1]) - set(prompts[0]) - set(prompts[2])
    model.model.embed_tokens.weight.data[poison] = float("nan")
    with pytest.raises(BaseError, match="not served"):
        probe.check(prepare(model, card), prompts, wanted)


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def without_a_tensor(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})


def cut_short(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


BROKEN = {
    "a weight is missing": without_a_tensor,
    "the weights are cut short": cut_short,
    "the sizes differ from the weights": lambda folder: edit_config(folder, intermediate_size=48),
    "a size has the wrong type": lambda folder: edit_config(folder, rms_norm_eps="small"),
    "heads do not divide the width": lambda folder: edit_config(folder, num_attention_heads=5),
}


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.filterwarnings("ignore")  # what transformers warns of is what we refuse
def test_a_folder_that_cannot_be_loaded_is_refused_in_words(tmp_path: Path, fault: str) -> None:
    make(tmp_path, "llama", CONFIGS["llama"])
    BROKEN[fault](tmp_path)
    with pytest.raises(BaseError) as caught:
        card = BaseCard.read(tmp_path, "broken")
        load_model(tmp_path, card, "auto")
    assert str(tmp_path) in str(caught.value) or "broken" in str(caught.value)


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    card = make(tmp_path, "llama", CONFIGS["llama"])
    with pytest.raises(BaseError, match="int8"):
        load_model(tmp_path, card, "int8")
