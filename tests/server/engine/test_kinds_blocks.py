"""Bottlenecks and deltas in mixed packed batches, each row against surgery on the plain model.

The reference is Hugging Face's own model with the change built into its modules, one sequence at a
time, in fp32: nothing of the kinds' own mathematics is used to check it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rootstock_adapters.architectures import ARCHITECTURES
from rootstock_adapters.bottleneck.spec import BottleneckSpec, sublayer_outputs
from rootstock_adapters.delta.op import difference
from rootstock_adapters.delta.spec import DeltaSpec, canonical
from rootstock_registry import Lineage, NewPart
from rootstock_server.engine import runner
from rootstock_server.engine.request import Adapter, Failed
from safetensors.torch import save
from torch import Tensor, nn

MODELS = sorted(ARCHITECTURES)
SHARED_LAYERS = ("albert",)
NONLINEAR = {"relu": nn.ReLU(), "gelu": nn.GELU(), "silu": nn.SiLU()}


class WithBottleneck(nn.Module):
    """A module, and a bottleneck behind it."""

    def __init__(self, before: nn.Module, spec: BottleneckSpec, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.before, self.act, self.scaling = before, NONLINEAR[spec.nonlinearity], spec.scaling
        width, size = tensors["up.weight"].shape
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        self.down.load_state_dict({n[5:]: t for n, t in tensors.items() if n.startswith("down.")})
        self.up.load_state_dict({n[3:]: t for n, t in tensors.items() if n.startswith("up.")})

    @property
    def weight(self) -> Tensor:
        return self.before.weight  # T5 asks for its dtype

    def forward(self, x: Tensor) -> Tensor:
        y = self.before(x)
        return y + self.scaling * self.up(self.act(self.down(y)))


class Operated(nn.Module):
    """An encoder where the oracle looks for one: inside, as PEFT keeps it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.base_model = self


def backbone_of(rig, model: nn.Module) -> nn.Module:
    return model if rig.card.task == "encode" else model.base_model


def expect(rig, digest: str, model: nn.Module) -> None:
    """The oracle's answer for `digest` is the one of `model`."""
    model.eval()
    rig._references[digest] = Operated(model) if rig.card.task == "encode" else model


def publish(rig, name: str, *parts: NewPart) -> str:
    version = rig.registry.publish("local", name, rig.card, parts, lineage=Lineage(method="test"))
    return version.digest


def bottleneck_part(rig, placement: str, act: str, seed: int, layers=None):
    spec = BottleneckSpec(
        placement=placement, size=5 + seed, nonlinearity=act, scaling=0.75,
        target_modules=sublayer_outputs(rig.card, placement, layers),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: 0.3 * torch.randn(shape, generator=generator)
        for name, shape in spec.tensor_shapes(rig.card).items()
    }
    return spec, tensors


def insert_bottlenecks(rig, model: nn.Module, spec: BottleneckSpec, tensors) -> None:
    backbone = backbone_of(rig, model)
    for path in spec.target_modules:
        parent, _, name = path.rpartition(".")
        own = {n.removeprefix(path + "."): t for n, t in tensors.items() if n.startswith(path)}
        wrapped = WithBottleneck(backbone.get_submodule(path), spec, own)
        setattr(backbone.get_submodule(parent), name, wrapped)


def add_bottleneck(rig, placement: str, act: str, seed: int, layers=None) -> str:
    spec, tensors = bottleneck_part(rig, placement, act, seed, layers)
    digest = publish(rig, f"block-{seed}", NewPart(spec, save(tensors)))
    model = rig.load_plain()
    insert_bottlenecks(rig, model, spec, tensors)
    expect(rig, digest, model)
    return digest


def tune(rig, scope: str, k: int | None, seed: int, size: float = 0.05) -> tuple[DeltaSpec, dict]:
    """The spec, and the state dict of a model of which just those parameters were changed."""
    spec = DeltaSpec.of(rig.card, scope, k)
    model = rig.load_plain()
    generator = torch.Generator().manual_seed(seed)
    parameters = {rig.card.module_path(n): p for n, p in model.named_parameters()}
    for name in map(canonical, spec.parameters):
        change = size * torch.randn(parameters[name].shape, generator=generator)
        parameters[name].data += change
    return spec, model.state_dict()


def add_delta(rig, scope: str, k: int | None, seed: int, size: float = 0.05) -> str:
    spec, state = tune(rig, scope, k, seed, size)
    tensors = difference(spec, rig.card, state, rig.load_plain().state_dict())
    digest = publish(rig, f"delta-{seed}", NewPart(spec, save(tensors)))
    model = rig.load_plain()
    model.load_state_dict(state)
    expect(rig, digest, model)
    return digest


def mixed(rig, versions: list[str], length: int = 24) -> list:
    """The base, LoRA and the given versions, each twice, in prompts of uneven lengths."""
    commands = []
    for number, version in enumerate([*versions, *rig.adapters[:2], None] * 2):
        prompt = [10 + (7 * number + 13 * j) % 100 for j in range(length - number)]
        if rig.card.task != "encode":
            commands.append(rig.generate(prompt, version, max_tokens=6))
        else:
            commands.append(rig.encode(prompt, version, []))
    return commands


def shares_layers(rig) -> bool:
    return rig.card.model_type in SHARED_LAYERS


def block_versions(rig) -> list[str]:
    return [
        add_bottleneck(rig, "houlsby", "relu", 1),
        add_bottleneck(rig, "pfeiffer", "gelu", 2),
        add_bottleneck(rig, "houlsby", "silu", 3, None if shares_layers(rig) else [1]),
    ]


def scopes(rig) -> list[tuple[str, int | None]]:
    has_biases = any(name.endswith(".bias") for name in rig.card.parameters)
    one_stack = not shares_layers(rig) and rig.card.task != "text2text"
    top = [("top-k", 1)] if one_stack else []
    return [("norms", None), *top, ("full", None), *([("biases", None)] * has_biases)]


def delta_versions(rig) -> list[str]:
    return [add_delta(rig, scope, k, 10 + n) for n, (scope, k) in enumerate(scopes(rig))]


@pytest.mark.parametrize("model", MODELS)
def test_bottlenecks_beside_lora_and_the_base_answer_as_the_operated_model(rig, model):
    one = rig(model, max_batch_tokens=40)  # prompts of 24 tokens come in chunks
    one.prove(mixed(one, block_versions(one)))


@pytest.mark.parametrize("model", MODELS)
def test_deltas_beside_lora_and_the_base_answer_as_the_tuned_model(rig, model):
    one = rig(model, max_batch_tokens=40)
    one.prove(mixed(one, delta_versions(one)))


@pytest.mark.parametrize("model", ["gemma3_text", "qwen3"])
def test_norms_of_single_heads_tell_tokens_from_heads(rig, model):
    """As many tokens in the step as there are heads, and two versions that share it."""
    one = rig(model)
    version = add_delta(one, "norms", None, 12)
    commands = [one.generate([20, 30], version), one.generate([40, 50], None)]
    one.prove(commands)


@pytest.mark.parametrize("add", [block_versions, delta_versions])
@pytest.mark.parametrize("model", ["llama", "bert"])
def test_a_change_of_a_neighbours_rows_is_caught(
    rig, monkeypatch, model, add: Callable[..., list[str]]
):
    one = rig(model)
    commands = mixed(one, add(one))
    right = runner.changes

    def moved(rows, applied):
        return right(rows, [*applied[1:], applied[0]])

    monkeypatch.setattr(runner, "changes", moved)
    with pytest.raises(AssertionError):
        one.prove(commands)


@pytest.mark.parametrize("add", [block_versions, delta_versions])
def test_changes_that_never_run_are_caught(rig, monkeypatch, add):
    one = rig("gpt2")
    commands = mixed(one, add(one))
    monkeypatch.setattr(runner, "changes", lambda rows, applied: {})
    with pytest.raises(AssertionError):
        one.prove(commands)


def test_a_bottleneck_and_a_delta_in_one_version_act_together(rig):
    one = rig("llama")
    spec, tensors = bottleneck_part(one, "pfeiffer", "relu", 4)
    delta, state = tune(one, "norms", None, 5)
    differences = difference(delta, one.card, state, one.load_plain().state_dict())
    parts = NewPart(delta, save(differences)), NewPart(spec, save(tensors))
    digest = publish(one, "both", *parts)
    model = one.load_plain()
    model.load_state_dict(state)
    insert_bottlenecks(one, model, spec, tensors)
    expect(one, digest, model)
    one.prove(mixed(one, [digest]))


def test_a_scale_weighs_a_difference_and_two_deltas_add_up(rig):
    one = rig("llama")
    first, second = add_delta(one, "full", None, 6, 0.03), add_delta(one, "norms", None, 7)
    plain = one.load_plain().state_dict()
    states = [one.reference(digest).state_dict() for digest in (first, second)]
    model = one.load_plain()
    model.load_state_dict(
        {n: t + 0.5 * (states[0][n] - t) + (states[1][n] - t) for n, t in plain.items()}
    )
    command = one.generate([20 + n for n in range(20)], first, max_tokens=6)
    expect(one, first, model)
    both = [Adapter(first, 0.5), Adapter(second)]
    answers = one.run([_with(command, both)])
    one.check(command, answers[command.id])


def _with(command, adapters: list[Adapter]):
    return type(command)(
        id=command.id, prompt_ids=command.prompt_ids, sampling=command.sampling, adapters=adapters
    )


@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_a_resident_version_is_charged_what_it_keeps(rig, model):
    one = rig(model)
    delta, block = add_delta(one, "full", None, 8), add_bottleneck(one, "houlsby", "relu", 9)
    one.prove(mixed(one, [delta, block]))
    resident = {version.digest: version.nbytes for version in one.engine.residency}
    parameters = sum(p.numel() for p in one.load_plain().parameters())
    tied = one.load_plain().get_input_embeddings().weight.numel() if model == "gpt2" else 0
    assert resident[delta] == 4 * (parameters + tied)  # the embedding, and its share of the output
    spec, _ = bottleneck_part(one, "houlsby", "relu", 9)
    per_linear = 2 * spec.size * 64 + spec.size + 64
    assert resident[block] == 4 * per_linear * len(spec.target_modules)


def test_a_delta_of_a_parameter_that_the_engine_never_reads_is_refused(rig):
    """The registry trusts the card; the engine has the modules themselves."""
    one = rig("llama")
    card = one.card.model_copy(
        update={"parameters": one.card.parameters | {"layers.0.ghost_norm.weight": (64,)}}
    )
    spec = DeltaSpec(scope="norms", parameters=("layers.0.ghost_norm.weight",))
    data = save({"layers.0.ghost_norm.weight": torch.zeros(64)})
    version = one.registry.publish(
        "local", "ghost", card, [NewPart(spec, data)], lineage=Lineage(method="test")
    )
    command = one.generate([20, 30], version.digest)
    [failed] = one.run([command])[command.id]
    assert isinstance(failed, Failed) and "ghost_norm" in failed.message
