"""Every architecture that is let in proves itself when it is loaded; whatever fails says why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rootstock_adapters.base_card import ARCHITECTURES, Architecture, BaseCard
from rootstock_adapters.errors import BaseError
from rootstock_server.backends.step import Row, Step
from rootstock_server.base import probe
from rootstock_server.base.load import FAMILIES, Base, load_model, prepare
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

# Two layers each. Windows are 8 tokens, with one layer of each sort: prompts are longer than that.
CONFIGS = json.loads((Path(__file__).parents[1] / "tiny_bases.json").read_text())
SMALL = CONFIGS["bert"]

IGNORANT = {
    "falcon": ("transformer", "generate", SMALL),
    "gptj": ("transformer", "generate", CONFIGS["gpt2"] | {"rotary_dim": 8}),
    "bloom": ("transformer", "generate", SMALL | {"n_layer": 2, "n_head": 4, "n_positions": 128}),
    "mpnet": ("mpnet", "encode", SMALL),
    "deberta-v2": ("deberta", "encode", SMALL | {"relative_attention": True}),
}


def make(folder: Path, model_type: str, config: dict[str, object]) -> BaseCard:
    """A random base whose norms and biases matter, too."""
    torch.manual_seed(0)
    model = FAMILIES[ARCHITECTURES[model_type].task].from_config(
        AutoConfig.for_model(model_type, **config)
    )
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


@pytest.mark.parametrize(
    "model_type", ["llama", "gemma2", "gpt2", "bert", "modernbert", "m2m_100", "t5"]
)
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
    assert all("embed" in path or path == "lm_head" for path in places.keys() - card.linears.keys())


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
    base, _ = probed(tmp_path, card, dtype)
    right = getattr(type(base.backend), name)
    monkeypatch.setattr(type(base.backend), name, leaking)
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


@pytest.mark.parametrize("model_type", IGNORANT)
def test_an_architecture_that_ignores_our_attention_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    """They take the setting and go on with their own attention: packed rows would mix."""
    prefix, task, config = IGNORANT[model_type]
    monkeypatch.setitem(ARCHITECTURES, model_type, Architecture(prefix, task))
    card = make(tmp_path, model_type, config)
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


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_neighbours_are_refused(
    tmp_path: Path, rope_type: str
) -> None:
    scaling = {"rope_type": rope_type, "factor": 2.0, "rope_theta": 1e4}
    if rope_type == "longrope":
        scaling |= {"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
        scaling |= {"original_max_position_embeddings": 64}
    card = make(tmp_path, "llama", CONFIGS["llama"] | {"rope_parameters": scaling})
    with pytest.raises(BaseError, match=f"rope_type '{rope_type}'"):
        probed(tmp_path, card)


# What folders on the Hugging Face hub hold besides the plain case.
VARIANTS = {
    "linear rope scaling": ("llama", {"rope_scaling": {"type": "linear", "factor": 4.0}}),
    "llama 3's rope scaling": (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
            }
        },
    ),
    "yarn": ("qwen2", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
    "tied embeddings": ("llama", {"tie_word_embeddings": True}),
    "a window that is switched off": ("qwen2", {"use_sliding_window": False, "layer_types": None}),
    "no window": ("mistral", {"sliding_window": None}),
    "biases on attention": ("llama", {"attention_bias": True}),
    "GPT-2 scaled by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "GPT-NeoX in sequence": ("gpt_neox", {"use_parallel_residual": False}),
    "OPT with narrow embeddings": (
        "opt", {"word_embed_proj_dim": 32, "do_layer_norm_before": False}
    ),
    "Gemma 3's pattern of windows": (
        "gemma3_text", {"layer_types": None, "sliding_window_pattern": 2}
    ),
    "phi with normed queries": ("phi", {"qk_layernorm": True}),
    "T5 1.1: gated, not tied": (
        "t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    ),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_the_known_architectures_pass_the_probe(tmp_path: Path, variant: str) -> None:
    model_type, changes = VARIANTS[variant]
    card = make(tmp_path, model_type, CONFIGS[model_type] | changes)
    base, error = probed(tmp_path, card)
    assert error < probe.TOLERANCE[torch.float32] / 5
    ids = torch.zeros(1, dtype=torch.long)
    step = Step(ids, ids, (Row(0, 1, 1, (0,)),), cache=base.new_cache(1))
    step.memories, step.encodes = (None,), card.task == "text2text"
    assert base.forward(step).shape == (1, card.hidden_size)


def test_shards_are_read_by_their_index_and_other_formats_beside_them_are_not(
    tmp_path: Path,
) -> None:
    """Mistral's folders hold the same weights a second time, under names of Mistral's own."""
    make(tmp_path, "mistral", CONFIGS["mistral"])
    whole = BaseCard.read(tmp_path, "whole").linears
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    save_file(
        {"layers.0.attention.wq.weight": torch.ones(64, 64)}, tmp_path / "consolidated.safetensors"
    )
    card = BaseCard.read(tmp_path, "shards")
    assert card.linears == whole
    assert probed(tmp_path, card)


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    card = make(tmp_path, "llama", CONFIGS["llama"])
    with pytest.raises(BaseError, match="float16"):
        load_model(tmp_path, card, "float16")
