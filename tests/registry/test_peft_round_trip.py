"""A folder that PEFT saved goes in and comes out: the same tensors, and PEFT answers the same."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    IA3Config,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.op import classify, pool, readout
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.kinds import parse_spec
from rootstock_adapters.lora.spec import LoraSpec
from rootstock_registry import Lineage, NewPart, Registry, Version, errors, peft_writer
from safetensors.torch import load, load_file, save
from transformers import (
    AlbertConfig,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    PreTrainedModel,
    RobertaConfig,
)

SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA = LlamaConfig(**SMALL, num_key_value_heads=1, num_labels=3)
GPT2 = GPT2Config(
    vocab_size=64, n_embd=16, n_layer=2, n_head=2, num_labels=3, bos_token_id=1, eos_token_id=2,
    pad_token_id=0,
)  # fmt: skip
BERT = BertConfig(**SMALL, num_labels=3)
DISTIL = DistilBertConfig(
    vocab_size=64, dim=16, hidden_dim=32, n_layers=2, n_heads=2, num_labels=3, pad_token_id=0
)
ALBERT = AlbertConfig(**SMALL | {"num_hidden_groups": 1}, embedding_size=8, num_labels=3)


def sequences(config: Any) -> Callable[[], PreTrainedModel]:
    return lambda: AutoModelForSequenceClassification.from_config(config)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LLAMA),
    "gpt2": lambda: GPT2LMHeadModel(GPT2),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SMALL)),
    "bare bert": lambda: BertModel(BERT),
    "llama sequences": lambda: LlamaForSequenceClassification(LLAMA),
    "llama tokens": lambda: LlamaForTokenClassification(LLAMA),
    "gpt2 sequences": lambda: GPT2ForSequenceClassification(GPT2),
    "bert sequences": lambda: BertForSequenceClassification(BERT),
    "bert tokens": lambda: BertForTokenClassification(BERT),
    "distilbert sequences": lambda: DistilBertForSequenceClassification(DISTIL),
    "roberta sequences": sequences(RobertaConfig(**SMALL, num_labels=3)),
    "electra sequences": sequences(ElectraConfig(**SMALL, embedding_size=16, num_labels=3)),
    "albert sequences": sequences(ALBERT),
}
LORA, IA3 = LoraConfig, IA3Config
QV = ["q_proj", "v_proj"]
ODD = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"^model.layers.1.self_attn.v_proj": 3}}
# (model, PEFT's config)
CASES: dict[str, tuple[str, PeftConfig]] = {
    "lora": ("llama", LORA(task_type="CAUSAL_LM", lora_dropout=0.1)),
    "lora without a task": ("llama", LORA(r=3, lora_alpha=5)),
    "lora of one layer": ("llama", LORA(target_modules=["up_proj"], layers_to_transform=[1])),
    "lora by expression": ("llama", LORA(target_modules=r".*1.*\.(q_proj|up_proj)")),
    "lora with patterns": ("llama", LORA(r=4, target_modules=QV, **ODD)),
    "lora and whole modules": ("llama", LORA(modules_to_save=["norm", "mlp"], target_modules=QV)),
    "lora of embeddings": ("llama", LORA(target_modules=["embed_tokens", "q_proj"])),
    "rslora": ("llama", LORA(use_rslora=True, target_modules="all-linear")),
    "dora": ("llama", LORA(use_dora=True, target_modules=[*QV, "lm_head"])),
    "lora on a bare backbone": ("bare bert", LORA(target_modules=["query", "output.dense"])),
    "lora and biases": ("gpt2", LORA(bias="lora_only", fan_in_fan_out=True)),
    "lora on the output": ("gpt_neox", LORA(target_modules=["query_key_value", "lm_head"])),
    "ia3": ("llama", IA3(task_type="CAUSAL_LM")),
    "ia3 on gpt2": ("gpt2", IA3(task_type="CAUSAL_LM")),
    "prompt tuning": ("llama", PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
    "prefix tuning": ("llama", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)),
    "projected prefix": ("gpt2", PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=8
    )),
    "decoder's sequences": ("llama sequences", LORA(task_type="SEQ_CLS")),
    "gpt2's sequences": ("gpt2 sequences", LORA(task_type="SEQ_CLS", fan_in_fan_out=True)),
    "decoder's tokens": ("llama tokens", LORA(task_type="TOKEN_CLS", use_dora=True)),
    "bert's sequences": ("bert sequences", LORA(task_type="SEQ_CLS")),
    "bert's sequences, pooler saved": (
        "bert sequences", LORA(task_type="SEQ_CLS", modules_to_save=["pooler", "classifier"])
    ),
    "bert's sequences, no task": (
        "bert sequences", LORA(target_modules=["query"], modules_to_save=["classifier"])
    ),
    "bert's tokens": ("bert tokens", IA3(task_type="TOKEN_CLS")),
    "bert's sequences by ia3": ("bert sequences", IA3(task_type="SEQ_CLS")),
    "distilbert's sequences": ("distilbert sequences", LORA(
        task_type="SEQ_CLS", target_modules=["q_lin"], modules_to_save=["pre_classifier"]
    )),
    "roberta's sequences": ("roberta sequences", LORA(task_type="SEQ_CLS")),
    "electra's sequences": ("electra sequences", LORA(task_type="SEQ_CLS")),
    "albert's sequences": (
        "albert sequences", LORA(task_type="SEQ_CLS", target_modules=["query", "value"])
    ),
}  # fmt: skip
HEADS = {name for name, (model, _) in CASES.items() if " " in model and "bare" not in model}
IDS = torch.tensor([[5, 9, 12, 33, 7, 18]])
pytestmark = [
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to"),
]


class Round:
    """A model, the folder in which PEFT saved it, and the version that was imported of it."""

    def __init__(self, path: Path, registry: Registry, model: str, config: PeftConfig) -> None:
        torch.manual_seed(0)
        base = MODELS[model]().eval()
        self.state = {name: tensor.clone() for name, tensor in base.state_dict().items()}
        self.make, self.path, self.registry = MODELS[model], path, registry
        base.save_pretrained(path / "base")
        self.card = BaseCard.read(path / "base", "tiny")
        tuned = get_peft_model(base, copy.deepcopy(config))  # PEFT writes into it
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad and "original_module" not in name:
                torch.nn.init.normal_(parameter, std=0.3)
        tuned.save_pretrained(path / "in")

    def load(self, folder: str) -> torch.Tensor:
        model = self.make()
        model.load_state_dict(self.state)
        tuned = PeftModel.from_pretrained(model.eval(), str(self.path / folder)).eval()
        with torch.no_grad():
            out = tuned(IDS)
        return out.logits if "logits" in out else out.last_hidden_state

    def take(self) -> Version:
        folder, base = self.path / "in", self.path / "base"
        return self.registry.import_peft("local", "a", folder, self.card, base_folder=base)

    def give(self, version: Version) -> None:
        peft_writer.write(version.manifest, self.registry.blobs, self.card, self.path / "out")


@pytest.mark.parametrize("case", CASES)
def test_the_same_tensors_come_out_and_peft_answers_the_same(
    case: str, tmp_path: Path, registry: Registry
) -> None:
    model, config = CASES[case]
    trip = Round(tmp_path, registry, model, config)
    version = trip.take()
    assert [part.kind == "head" for part in version.manifest.parts] == [False] + [True] * (
        case in HEADS
    )
    trip.give(version)
    before = load_file(tmp_path / "in" / "adapter_model.safetensors")
    after = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert after[name].dtype == tensor.dtype and torch.equal(after[name], tensor)
    torch.testing.assert_close(trip.load("out"), trip.load("in"), rtol=0, atol=0)
    again = trip.registry.import_peft(
        "local", "a", tmp_path / "out", trip.card, base_folder=tmp_path / "base"
    )
    parts = [(part.kind, part.config, part.tensors) for part in version.manifest.parts]
    assert [(part.kind, part.config, part.tensors) for part in again.manifest.parts] == parts


@pytest.mark.parametrize("case", sorted(HEADS))
def test_a_head_says_what_the_classifier_said(
    case: str, tmp_path: Path, registry: Registry
) -> None:
    trip = Round(tmp_path, registry, *CASES[case])
    part = trip.take().manifest.parts[1]
    spec = parse_spec(part.kind, part.config)
    assert isinstance(spec, HeadSpec) and spec.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    model = trip.make()
    model.load_state_dict(trip.state)
    tuned = PeftModel.from_pretrained(model.eval(), str(tmp_path / "in")).eval()
    backbone = getattr(tuned.get_base_model(), tuned.get_base_model().base_model_prefix)
    with torch.no_grad():
        hidden, wanted = backbone(IDS).last_hidden_state, tuned(IDS).logits
        pooled = pool(hidden, torch.ones_like(IDS), spec.pooling, spec.normalize)
        found = classify(pooled, readout(spec, load(registry.blobs.get(part.blob))))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_a_base_without_the_pooler_and_another_base_are_told_apart(
    tmp_path: Path, registry: Registry
) -> None:
    trip = Round(tmp_path, registry, "bert sequences", LORA(task_type="SEQ_CLS"))
    with pytest.raises(errors.InvalidArtifact, match=r"reads bert\.pooler\.dense.*--base PATH"):
        registry.import_peft("local", "a", tmp_path / "in", trip.card)
    MODELS["bert sequences"]().save_pretrained(tmp_path / "other")
    with pytest.raises(errors.InvalidArtifact, match="its fingerprint differs"):
        registry.import_peft(
            "local", "a", tmp_path / "in", trip.card, base_folder=tmp_path / "other"
        )
    bare = trip.card.model_copy(update={"parameters": {}})
    with pytest.raises(
        errors.InvalidArtifact, match="save the adapter with modules_to_save pooler"
    ):
        registry.import_peft("local", "a", tmp_path / "in", bare)
    assert registry.adapters("local") == []


def test_a_classifier_that_was_not_saved_is_asked_for(tmp_path: Path, registry: Registry) -> None:
    trip = Round(tmp_path, registry, "llama", LORA(task_type="CAUSAL_LM"))
    file = tmp_path / "in" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"task_type": "SEQ_CLS"}))
    with pytest.raises(errors.InvalidArtifact, match=r"score\.weight is missing"):
        trip.take()


def made_here(card: BaseCard, **options: Any) -> NewPart:
    modules = tuple(path for path in card.linears if path.endswith("q_proj"))
    spec = LoraSpec(r=2, lora_alpha=4, target_modules=modules, **options)
    draw = torch.Generator().manual_seed(0)
    shapes = spec.tensor_shapes(card)
    return NewPart(spec, save({n: torch.randn(s, generator=draw) for n, s in shapes.items()}))


def test_a_version_made_here_is_loaded_by_peft_with_its_head(
    tmp_path: Path, registry: Registry
) -> None:
    trip = Round(tmp_path, registry, "llama sequences", LORA(task_type="SEQ_CLS"))
    lora = made_here(trip.card, rank_pattern={"layers.1.self_attn.q_proj": 3})
    spec = HeadSpec(pooling="last", normalize=False, labels=("a", "b", "c"))
    head = NewPart(spec, save({"weight": torch.randn(3, 16), "bias": torch.zeros(3)}))
    parts = [lora, head]
    trip.give(registry.publish("local", "own", trip.card, parts, lineage=Lineage(method="lora")))
    written = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert torch.equal(written["base_model.model.score.weight"], load(head.data)["weight"])
    assert trip.load("out").shape == (1, 3)
    again = registry.import_peft("local", "again", tmp_path / "out", trip.card)
    assert again.manifest.parts[0].config == lora.spec.model_dump(mode="json")


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (HeadSpec(pooling="mean", normalize=False, labels=("a", "b")), "pooling mean.*target onnx"),
        (HeadSpec(pooling="last", normalize=True, labels=("a", "b")), "normalize True"),
        (HeadSpec(pooling="last", normalize=False, labels=("a", "b")), "has a bias"),
    ],
)
def test_a_head_that_transformers_has_not_is_refused(
    tmp_path: Path, registry: Registry, head: HeadSpec, words: str
) -> None:
    trip = Round(tmp_path, registry, "llama", LORA(task_type="CAUSAL_LM"))
    part = NewPart(head, save({"weight": torch.ones(2, 16), "bias": torch.ones(2)}))
    parts, lineage = [made_here(trip.card), part], Lineage(method="lora")
    version = registry.publish("local", "own", trip.card, parts, lineage=lineage)
    with pytest.raises(errors.InvalidArtifact, match=words):
        trip.give(version)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_not_written_to(
    tmp_path: Path, registry: Registry
) -> None:
    trip = Round(tmp_path, registry, "llama", LORA(task_type="CAUSAL_LM"))
    with pytest.raises(errors.InvalidArtifact, match="is not empty"):
        peft_writer.write(trip.take().manifest, registry.blobs, trip.card, tmp_path / "base")


@pytest.mark.parametrize(
    "record",
    [
        "[]",
        '{"names": {"layers.0.self_attn.q_proj.lora_A.weight": "x", '
        '"layers.0.self_attn.q_proj.lora_B.weight": "x"}}',
        '{"names": {"layers.0.self_attn.q_proj.lora_A.weight": "\\u202e"}}',
        '{"names": 1}',
        '{"fields": {"auto_mapping": {"base_model_class": "X", "parent_library": "os"}}}',
        '{"fields": {"base_model_name_or_path": "https://example.org"}}',
        '{"code": "x"}',
    ],
)
def test_a_forged_record_of_a_folder_is_not_written_out(
    tmp_path: Path, registry: Registry, record: str
) -> None:
    trip = Round(tmp_path, registry, "llama", LORA(task_type="CAUSAL_LM"))
    part = made_here(trip.card)
    forged = NewPart(part.spec, save(load(part.data), {"peft": record}))
    version = registry.publish("local", "own", trip.card, [forged], lineage=Lineage(method="x"))
    with pytest.raises(errors.InvalidArtifact, match="record of a PEFT folder"):
        trip.give(version)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["bottleneck", "delta", "prompt", "head"])
def test_what_peft_has_no_form_for_is_refused_with_what_to_use_instead(
    tmp_path: Path, registry: Registry, kind: str
) -> None:
    trip = Round(tmp_path, registry, "llama", LORA(task_type="CAUSAL_LM"))
    config: dict[str, dict[str, Any]] = {
        "bottleneck": {"placement": "pfeiffer", "size": 2, "nonlinearity": "relu",
                       "target_modules": ["layers.0.mlp.down_proj"]},
        "delta": {"scope": "norms", "parameters": ["norm.weight"]},
        "prompt": {"system": "Be brief."},
        "head": {"pooling": "last", "normalize": False, "labels": ["a", "b"]},
    }  # fmt: skip
    instead = {"bottleneck": "lora", "delta": "copy", "prompt": "--json", "head": "onnx"}
    spec = parse_spec(kind, config[kind])
    tensors = {name: torch.ones(shape) for name, shape in spec.tensor_shapes(trip.card).items()}
    part, lineage = NewPart(spec, save(tensors)), Lineage(method="test")
    version = registry.publish("local", "own", trip.card, [part], lineage=lineage)
    with pytest.raises(errors.InvalidArtifact, match=instead[kind]):
        trip.give(version)
    assert not (tmp_path / "out").exists()
