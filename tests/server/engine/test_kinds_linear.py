"""IA3 and all of LoRA in mixed packed batches, each row against Hugging Face with PEFT alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from rootstock_adapters.ia3.op import Scaled
from rootstock_adapters.lora.op import EmbeddedUpdate, Magnitude
from rootstock_adapters.replaced.op import Unchanged
from rootstock_server.engine import runner
from rootstock_server.engine.request import Adapter, Failed
from safetensors.torch import load_file

MODELS = ["llama", "gpt2", "gemma2", "bert"]
TASKS = {"generate": "CAUSAL_LM", "encode": "FEATURE_EXTRACTION", "text2text": "SEQ_2_SEQ_LM"}
EMBEDDING = {
    "llama": "embed_tokens", "gemma2": "embed_tokens", "gpt2": "wte", "bert": "word_embeddings",
    "m2m_100": "embed_tokens",
}  # fmt: skip
QUERY = {
    "llama": "q_proj", "gemma2": "q_proj", "gpt2": "c_attn", "bert": "query", "m2m_100": "q_proj",
}  # fmt: skip
DOWN = {
    "llama": "down_proj", "gemma2": "down_proj", "gpt2": "mlp.c_proj", "bert": "output.dense",
    "m2m_100": "fc2",
}  # fmt: skip
NORM = {
    "llama": "input_layernorm", "gemma2": "post_attention_layernorm", "gpt2": "ln_1",
    "bert": "LayerNorm", "m2m_100": "self_attn_layer_norm",
}  # fmt: skip
# PEFT says that tied weights part, and that it saves embeddings: both are what is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to"),  # GPT-2's output is no Conv1D
]


def add(rig, folder: Path, config: object, seed: int) -> str:
    """Make a PEFT adapter all of whose parameters matter, save it as PEFT does, and import it."""
    torch.manual_seed(seed)
    model = rig.load_plain()
    config.task_type = TASKS[rig.card.task]
    config.fan_in_fan_out = rig.card.model_type == "gpt2"
    peft = get_peft_model(model, config)
    for name, parameter in peft.named_parameters():
        _disturb(name, parameter)
    peft.save_pretrained(folder)
    digest = rig.registry.import_peft("local", folder.name, folder, rig.card).digest
    rig.folders[digest] = folder
    return digest


def _disturb(name: str, parameter: torch.nn.Parameter) -> None:
    if "lora_A" in name or "lora_B" in name or "lora_embedding" in name:
        torch.nn.init.normal_(parameter, std=0.2)
    elif "ia3_l" in name or "magnitude" in name:
        parameter.data *= 1 + 0.4 * torch.randn_like(parameter)
    elif parameter.requires_grad:  # modules_to_save and biases
        parameter.data += 0.1 * torch.randn_like(parameter)


def commands_for(rig, versions: list[str], length: int = 30) -> list:
    """Each version, plain LoRA and the base, twice, with prompts of uneven lengths."""
    commands = []
    for number, version in enumerate([*versions, *rig.adapters[:2], None] * 2):
        prompt = [10 + (7 * number + 13 * j) % 100 for j in range(max(2, length - 2 * number))]
        if rig.card.task != "encode" and number % 4 != 3:
            commands.append(rig.generate(prompt, version, max_tokens=6))
        else:
            commands.append(rig.encode(prompt, version, []))
    return commands


def ia3(rig, folder: Path) -> list[str]:
    kind = rig.card.model_type
    inward = [DOWN[kind]]
    both = IA3Config(target_modules=[QUERY[kind], *inward], feedforward_modules=inward)
    out = IA3Config(target_modules=[QUERY[kind]], feedforward_modules=[])
    return [add(rig, folder / "ia3-both", both, 1), add(rig, folder / "ia3-out", out, 2)]


def dora(rig, folder: Path) -> list[str]:
    kind = rig.card.model_type
    targets = [QUERY[kind], DOWN[kind]]
    plain = LoraConfig(r=4, target_modules=targets, use_dora=True)
    roots = LoraConfig(r=9, target_modules=targets[:1], use_dora=True, use_rslora=True)
    return [add(rig, folder / "dora", plain, 3), add(rig, folder / "dora-rs", roots, 4)]


def patterns(rig, folder: Path) -> list[str]:
    kind = rig.card.model_type
    layer = "h" if kind == "gpt2" else "layer" if kind == "bert" else "layers"
    config = LoraConfig(
        r=4, target_modules=[QUERY[kind], DOWN[kind]], lora_alpha=6,
        rank_pattern={DOWN[kind]: 11}, alpha_pattern={QUERY[kind]: 9},
    )  # fmt: skip
    top = LoraConfig(r=3, target_modules=[QUERY[kind]], layers_to_transform=[1])
    top.layers_pattern = layer
    return [add(rig, folder / "patterns", config, 5), add(rig, folder / "top", top, 6)]


def embedding(rig, folder: Path) -> list[str]:
    kind = rig.card.model_type
    output = ["lm_head"] if rig.card.output else []
    targets = [EMBEDDING[kind], QUERY[kind]]
    ends = LoraConfig(r=4, target_modules=[*targets, *output])
    inside = LoraConfig(r=5, target_modules=targets, lora_alpha=3)
    return [add(rig, folder / "ends", ends, 7), add(rig, folder / "inside", inside, 8)]


def saved(rig, folder: Path) -> list[str]:
    kind = rig.card.model_type
    output = ["lm_head"] if rig.card.output else []
    first = LoraConfig(r=4, target_modules=[QUERY[kind]], modules_to_save=[NORM[kind], *output])
    second = LoraConfig(r=4, target_modules=[QUERY[kind]], modules_to_save=[EMBEDDING[kind]])
    whole = IA3Config(
        target_modules=[QUERY[kind]], feedforward_modules=[], modules_to_save=[DOWN[kind]]
    )
    return [
        add(rig, folder / "saved-norms", first, 9),
        add(rig, folder / "saved-embedding", second, 10),
        add(rig, folder / "saved-linear", whole, 11),
    ]


def biases(rig, folder: Path) -> list[str]:
    kind = rig.card.model_type
    own = LoraConfig(r=4, target_modules=[QUERY[kind]], bias="lora_only", use_dora=True)
    every = LoraConfig(r=4, target_modules=[QUERY[kind]], bias="all")
    return [add(rig, folder / "own-bias", own, 12), add(rig, folder / "all-bias", every, 13)]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("make", [ia3, dora, patterns, embedding, saved, biases])
def test_rows_of_a_mixed_batch_equal_peft_alone(rig, model, make, tmp_path):
    one = rig(model, max_batch_tokens=48)  # prompts come in chunks
    one.prove(commands_for(one, make(one, tmp_path)))


@pytest.mark.parametrize("make", [ia3, dora, embedding, saved, biases])
def test_rows_of_an_encoder_decoder_equal_peft_alone(rig, make, tmp_path):
    one = rig("m2m_100", max_batch_tokens=64)
    one.prove(commands_for(one, make(one, tmp_path)))


@pytest.mark.parametrize("make", [ia3, dora, embedding, saved, biases])
def test_the_oracle_tells_a_version_from_the_base_and_from_its_sibling(rig, make, tmp_path):
    """Precondition of all above: an answer of one fails as the answer of another."""
    one = rig("llama")
    versions = [*make(one, tmp_path), None]
    for asked, claimed in zip(versions, versions[1:] + versions[:1], strict=True):
        command, other = (one.generate([20, 30, 40], version) for version in (asked, claimed))
        events = one.run([command])[command.id]
        with pytest.raises(AssertionError):
            one.check(other, events)


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_two_loras_with_scales_are_the_sum_of_their_scaled_updates(rig, model, tmp_path):
    one = rig(model, max_batch_tokens=48)
    kind = one.card.model_type
    targets = [QUERY[kind], DOWN[kind], "lm_head"]
    folders = {}
    for number, rank in enumerate((4, 20)):  # of two rank buckets
        config = LoraConfig(r=rank, target_modules=targets, lora_alpha=rank, bias="none")
        folders[add(one, tmp_path / f"sum-{number}", config, 20 + number)] = 0.5 + 1.5 * number
    model = one.load_plain()
    for digest, scale in folders.items():
        _merge(one, model, digest, scale)
    one._references["sum"] = model.eval()
    commands = [one.generate([20 + n, *range(30, 60)], None) for n in range(3)]
    together = [_with(command, folders) for command in commands]
    others = commands_for(one, list(folders))
    answers = one.run([*together, *others])
    for plain, command in zip(commands, together, strict=True):
        one.check(_with(plain, {"sum": 1.0}), answers[command.id])
    for command in others:
        one.check(command, answers[command.id])


def _with(command, scales: dict[str, float]):
    adapters = [Adapter(digest, scale) for digest, scale in scales.items()]
    return msgspec.structs.replace(command, adapters=adapters)


def _merge(rig, model: torch.nn.Module, digest: str, scale: float) -> None:
    """W + scale · alpha/r · B A, written into the plain model by hand; alpha is r here."""
    state = load_file(rig.folders[digest] / "adapter_model.safetensors")
    for name, down in state.items():
        module, a, _ = name.removeprefix("base_model.model.").partition(".lora_A.weight")
        if a:
            update = scale * state[name.replace("lora_A", "lora_B")] @ down
            linear = model.get_submodule(module)
            conv1d = not isinstance(linear, torch.nn.Linear)
            weight = linear.weight + (update.T if conv1d else update)
            linear.weight = torch.nn.Parameter(weight)  # anew: it may be tied to the embedding


@pytest.mark.parametrize("make", [ia3, dora])
def test_what_rescales_the_base_is_not_combined_and_says_so(rig, make, tmp_path):
    one = rig("llama")
    version = make(one, tmp_path)[0]
    plain = one.generate([20, 30], None)
    pair = {version: 1.0, one.adapters[0]: 1.0}
    for scales in ({version: 0.5}, pair):
        command = _with(one.generate([20, 30], None), scales)
        [failed] = [e for e in one.run([command, plain])[command.id] if isinstance(e, Failed)]
        assert failed.error == "BadRequest"


def test_an_embedding_that_peft_saved_as_it_was_takes_no_memory(rig, tmp_path):
    one = rig("llama")
    version = embedding(one, tmp_path)[0]
    prepared = one.engine.residency._fetch(version)
    kinds = {path: [type(c) for c in changes] for path, changes in prepared.changes.items()}
    assert kinds == {"embed_tokens": [Unchanged, EmbeddedUpdate], "lm_head": [Unchanged]}
    assert prepared.nbytes == 4 * 4 * (120 + 64)


def _caught(rig, versions: list[str]) -> None:
    with pytest.raises(AssertionError):
        rig.prove(commands_for(rig, versions))


def test_a_magnitude_without_the_update_in_its_norm_is_caught(rig, monkeypatch, tmp_path):
    one = rig("llama")
    monkeypatch.setattr(Magnitude, "_norms", lambda self, place: place.norms)
    _caught(one, dora(one, tmp_path))


def test_a_magnitude_that_scales_the_bias_is_caught(rig, monkeypatch, tmp_path):
    one = rig("gpt2")
    right = Magnitude.bind
    monkeypatch.setattr(Magnitude, "bind", lambda s, place: replace(right(s, place), rest=None))
    _caught(one, dora(one, tmp_path))


def test_a_scale_on_a_neighbours_row_is_caught(rig, monkeypatch, tmp_path):
    one = rig("llama")
    right = runner.changes

    def moved(rows, applied):
        return right(rows, [*applied[1:], *applied[:1]])

    monkeypatch.setattr(runner, "changes", moved)
    _caught(one, ia3(one, tmp_path))


def test_a_factor_on_the_wrong_channel_is_caught(rig, monkeypatch, tmp_path):
    one = rig("llama")
    right = Scaled.bind
    monkeypatch.setattr(
        Scaled, "bind", lambda self, place: right(Scaled(self.factors.roll(1)), place)
    )
    _caught(one, ia3(one, tmp_path))


def test_an_embedding_update_without_gemmas_factor_is_caught(rig, monkeypatch, tmp_path):
    one = rig("gemma2")
    monkeypatch.setattr(EmbeddedUpdate, "bind", lambda self, place: self)
    _caught(one, embedding(one, tmp_path))
