"""AdapterHub's bottlenecks come in, and compute what its library computes; the rest is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.bottleneck.op import BehindNorm, Bottleneck
from rootstock_adapters.bottleneck.spec import BottleneckSpec
from rootstock_adapters.kinds import parse_spec
from rootstock_adapters.op import prepare
from rootstock_registry import Registry, Version, adapterhub, errors
from safetensors.torch import load, load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)
from transformers.activations import get_activation

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2,
}  # fmt: skip
DISTIL = DistilBertConfig(vocab_size=64, dim=16, hidden_dim=32, n_layers=2, n_heads=2)
MODELS: dict[str, Any] = {
    "bert": lambda: BertModel(BertConfig(**SMALL)),
    "roberta": lambda: RobertaModel(RobertaConfig(**SMALL)),
    "distilbert": lambda: DistilBertModel(DISTIL),
}
# What the library's SeqBnConfig and DoubleSeqBnConfig write, all options spelled out.
COMMON: dict[str, Any] = {
    "adapter_residual_before_ln": False, "cross_adapter": False, "dropout": 0.0,
    "factorized_phm_W": True, "factorized_phm_rule": False,
    "hypercomplex_nonlinearity": "glorot-uniform", "init_weights": "bert", "inv_adapter": None,
    "inv_adapter_reduction_factor": None, "is_parallel": False, "learn_phm": True,
    "leave_out": [], "ln_after": False, "ln_before": False, "original_ln_after": True,
    "output_adapter": True, "phm_bias": True, "phm_c_init": "normal", "phm_dim": 4,
    "phm_init_range": 0.0001, "phm_layer": False, "phm_rank": 1, "reduction_factor": 4,
    "residual_before_ln": True, "scaling": 1.0, "shared_W_phm": False, "shared_phm_rule": True,
    "stochastic_depth": 0.0, "use_gating": False,
}  # fmt: skip
SEQ_BN = COMMON | {"mh_adapter": False, "original_ln_before": True, "non_linearity": "relu"}
DOUBLE = COMMON | {"mh_adapter": True, "original_ln_before": False, "non_linearity": "swish"}
SIZE = 4
# In a layer: the library's name, the module that has the output and the norm, and their names.
PLACES = {
    "bert": (("attention.output", "attention.output", "dense", "LayerNorm"),
             ("output", "output", "dense", "LayerNorm")),
    "distilbert": (("attention_adapters", "", "attention.out_lin", "sa_layer_norm"),
                   ("output_adapters", "", "ffn.lin2", "output_layer_norm")),
}  # fmt: skip
PLACES["roberta"] = PLACES["bert"]
LAYER = {"bert": "encoder.layer", "roberta": "encoder.layer", "distilbert": "transformer.layer"}
Layers = dict[tuple[int, str], dict[str, Tensor]]


class Saved:
    """A base, and a folder such as the library's `save_adapter(use_safetensors=True)` writes."""

    def __init__(self, path: Path, model: str, config: dict[str, Any], **outer: Any) -> None:
        torch.manual_seed(0)
        self.kind, self.config, self.path = model, config, path
        self.model: PreTrainedModel = MODELS[model]().eval()
        self.model.save_pretrained(path / "base")
        self.card = BaseCard.read(path / "base", "tiny")
        self.layers: Layers = {}
        places = PLACES[model] if config["mh_adapter"] else PLACES[model][1:]
        for number in range(2):
            for theirs, *_ in places if number not in config["leave_out"] else ():
                self.layers[number, theirs] = {
                    "adapter_down.0.weight": torch.randn(SIZE, 16),
                    "adapter_down.0.bias": torch.randn(SIZE),
                    "adapter_up.weight": torch.randn(16, SIZE),
                    "adapter_up.bias": torch.randn(16),
                }
        self.folder = path / "adapter"
        self.folder.mkdir()
        text = {
            "config": config, "config_id": "9076f36a74755ac4", "hidden_size": 16,
            "model_class": "AutoAdapterModel", "model_name": "tiny", "model_type": model,
            "name": "task", "version": "adapters.1.2.0", **outer,
        }  # fmt: skip
        (self.folder / "adapter_config.json").write_text(json.dumps(text))
        self.write(lambda name: name)

    def write(self, rename: Any) -> None:
        tensors = {
            rename(f"{self.kind}.{LAYER[self.kind]}.{number}.{theirs}.adapters.task.{leaf}"): tensor
            for (number, theirs), own in self.layers.items()
            for leaf, tensor in own.items()
        }
        save_file(tensors, self.folder / "adapter.safetensors")

    def take(self, registry: Registry) -> Version:
        return registry.import_adapterhub("local", "task", self.folder, self.card)

    def operated(self) -> PreTrainedModel:
        """The base with the library's own arithmetic written out at each place."""
        layers = self.model.get_submodule(LAYER[self.kind])
        for number, layer in enumerate(layers):  # type: ignore[arg-type]
            for theirs, home, linear, norm in PLACES[self.kind]:
                if (number, theirs) in self.layers:
                    place = layer.get_submodule(home)
                    own = Theirs(self.config, self.layers[number, theirs], getattr(place, norm))
                    place.get_submodule(linear).register_forward_hook(own.remember)
                    setattr(place, norm, own)
        return self.model


class Theirs(nn.Module):
    """`Adapter.pre_forward`, `forward` and `post_forward`, for a sublayer and its norm."""

    def __init__(self, config: dict[str, Any], tensors: dict[str, Tensor], norm: nn.Module) -> None:
        super().__init__()
        self.config, self.tensors, self.norm = config, tensors, norm
        self.act = get_activation(config["non_linearity"])

    def remember(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.hidden = output

    def forward(self, total: Tensor) -> Tensor:
        hidden = self.hidden.reshape(total.shape)
        residual_input = total - hidden
        reads = self.norm(total) if self.config["original_ln_before"] else hidden
        down = nn.functional.linear(
            reads, self.tensors["adapter_down.0.weight"], self.tensors["adapter_down.0.bias"]
        )
        up = nn.functional.linear(
            self.act(down), self.tensors["adapter_up.weight"], self.tensors["adapter_up.bias"]
        )
        return self.norm(up * self.config["scaling"] + hidden + residual_input)


class Place:
    """What a change is bound to, on a plain module."""

    scale, bias, dtype = 1.0, None, torch.float32

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.is_linear = isinstance(module, nn.Linear)
        self.norms = torch.zeros(1)
        self.parameters = dict(module.named_parameters())

    def shifted(self, differences: dict[str, Tensor]) -> nn.Module:
        assert not differences
        return self.module.forward


def served(saved: Saved, registry: Registry, version: Version) -> PreTrainedModel:
    """The base with the imported version's changes at their places."""
    [part] = version.manifest.parts
    model = MODELS[saved.kind]().eval()
    model.load_state_dict(load_file(saved.path / "base" / "model.safetensors"), strict=False)
    prepared = prepare(parse_spec(part.kind, part.config), load(registry.blobs.get(part.blob)))
    for path, changes in prepared.changes.items():
        module = model.get_submodule(path)
        [change] = [change.bind(Place(module)) for change in changes]  # type: ignore[arg-type]
        assert isinstance(change, Bottleneck | BehindNorm)
        module.register_forward_hook(lambda m, x, y, change=change: change.after(x[0], y))
    return model


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("config", "placement"),
    [
        (SEQ_BN, "seq_bn"),
        (DOUBLE, "houlsby"),
        (SEQ_BN | {"mh_adapter": True, "scaling": 0.5, "non_linearity": "gelu"}, "seq_bn"),
        (DOUBLE | {"mh_adapter": False, "leave_out": [0]}, "pfeiffer"),
    ],
)
def test_an_imported_adapter_computes_what_the_library_computes(
    model: str, config: dict[str, Any], placement: str, tmp_path: Path, registry: Registry
) -> None:
    saved = Saved(tmp_path, model, config)
    assert adapterhub.is_folder(saved.folder)
    version = saved.take(registry)
    spec = parse_spec("bottleneck", version.manifest.parts[0].config)
    assert isinstance(spec, BottleneckSpec)
    assert (spec.placement, spec.size) == (placement, SIZE)
    assert len(spec.target_modules) == len(saved.layers)
    assert version.manifest.lineage.source == "adapterhub folder"
    ids = torch.randint(5, 64, (2, 9))
    with torch.no_grad():
        plain = saved.model(ids).last_hidden_state
        ours = served(saved, registry, version)(ids).last_hidden_state
        theirs = saved.operated()(ids).last_hidden_state
    assert (theirs - plain).abs().max() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("adapter_residual_before_ln", True), ("architecture", "lora"), ("cross_adapter", True),
        ("inv_adapter", "nice"), ("is_parallel", True), ("ln_after", True), ("ln_before", True),
        ("original_ln_after", False), ("phm_layer", True), ("residual_before_ln", "post_add"),
        ("use_gating", True), ("scaling", "learned"), ("scaling", "channel"), ("scaling", True),
        ("scaling", 1e9), ("non_linearity", "leakyrelu"), ("non_linearity", ["relu"]),
        ("mh_adapter", None), ("mh_adapter", "yes"), ("output_adapter", 1), ("leave_out", [0]),
        ("leave_out", "0"), ("original_ln_before", "post"), ("invertible_adapter", {"a": 1}),
        ("an_option_of_next_year", True),
    ],
)  # fmt: skip
def test_an_option_that_is_not_served_is_refused_by_name(
    tmp_path: Path, registry: Registry, field: str, value: Any
) -> None:
    saved = Saved(tmp_path, "bert", SEQ_BN)
    text = json.loads((saved.folder / "adapter_config.json").read_text())
    text["config"] |= {field: value}
    (saved.folder / "adapter_config.json").write_text(json.dumps(text))
    with pytest.raises(errors.InvalidArtifact, match=field):
        saved.take(registry)
    assert registry.adapters("local") == []


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        ("adapters.task", "adapters.other", errors.InvalidArtifact, "another adapter than"),
        ("output.adapters", "output.loras", errors.InvalidArtifact, "not one of a sequential"),
        ("layer.1.", "layer.7.", errors.WrongBase, "layer.7.output.dense.*no such linear"),
        ("layer.1.output", "layer.1.attention.output", errors.InvalidArtifact, "mh_adapter is off"),
        ("1.output.adapters.task.adapter_up.bias", "1.x", errors.InvalidArtifact, "tensor .*1.x"),
        ("bert.encoder", "albert.encoder", errors.InvalidArtifact, "tensor albert"),
    ],
)
def test_a_tensor_without_a_place_is_named(
    tmp_path: Path, registry: Registry, old: str, new: str,
    error: type[errors.RegistryError], words: str,
) -> None:  # fmt: skip
    saved = Saved(tmp_path, "bert", SEQ_BN)
    saved.write(lambda name: name.replace(old, new))
    with pytest.raises(error, match=words):
        saved.take(registry)


def test_a_layer_that_is_missing_is_named(tmp_path: Path, registry: Registry) -> None:
    saved = Saved(tmp_path, "bert", SEQ_BN)
    del saved.layers[1, "output"]["adapter_up.bias"]
    saved.write(lambda name: name)
    with pytest.raises(errors.InvalidArtifact, match=r"layer\.1's output has no up\.bias"):
        saved.take(registry)


def test_layers_of_different_sizes_are_refused(tmp_path: Path, registry: Registry) -> None:
    saved = Saved(tmp_path, "bert", SEQ_BN | {"reduction_factor": {"0": 2, "default": 4}})
    saved.layers[0, "output"]["adapter_down.0.weight"] = torch.randn(8, 16)
    saved.write(lambda name: name)
    with pytest.raises(errors.InvalidArtifact, match=r"sizes \[4, 8\].*reduction_factor"):
        saved.take(registry)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("head_config.json", "heads are not imported: take the file away"),
        ("pytorch_model_head.bin", "heads are not imported"),
    ],
)
def test_a_head_in_the_folder_is_not_left_out_in_silence(
    tmp_path: Path, registry: Registry, file: str, words: str
) -> None:
    saved = Saved(tmp_path, "bert", SEQ_BN)
    (saved.folder / file).write_text("{}")
    with pytest.raises(errors.InvalidArtifact, match=words):
        saved.take(registry)


def test_pickled_weights_and_another_architecture_are_refused_in_words(
    tmp_path: Path, registry: Registry
) -> None:
    saved = Saved(tmp_path, "bert", SEQ_BN, model_type="roberta")
    with pytest.raises(errors.WrongBase, match="model_type 'roberta'"):
        saved.take(registry)
    text = json.loads((saved.folder / "adapter_config.json").read_text()) | {"model_type": "bert"}
    (saved.folder / "adapter_config.json").write_text(json.dumps(text))
    (saved.folder / "adapter.safetensors").rename(saved.folder / "pytorch_adapter.bin")
    with pytest.raises(errors.InvalidArtifact, match=r"never read.*use_safetensors=True"):
        saved.take(registry)
