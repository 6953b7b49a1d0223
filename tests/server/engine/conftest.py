"""A real engine on tiny random bases, and an independent oracle for every row it answers.

The oracle is Hugging Face's own model with PEFT's own adapter, one sequence at a time, in fp32.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rootstock_adapters.base_card import ARCHITECTURES, BaseCard
from rootstock_adapters.head.op import logits as head_logits
from rootstock_adapters.head.op import pool
from rootstock_adapters.head.spec import HeadSpec
from rootstock_registry import Lineage, NewPart, Registry
from rootstock_server.base.load import FAMILIES
from rootstock_server.config import EngineLimits
from rootstock_server.engine import worker
from rootstock_server.engine.engine import Engine
from rootstock_server.engine.request import (
    Adapter,
    Encode,
    Encoded,
    Event,
    Failed,
    Generate,
    Sampling,
    Token,
)
from safetensors.torch import save
from transformers import (
    AutoConfig,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

VOCAB = 120
SIZES = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 256, "initializer_range": 0.2,
}  # fmt: skip
DECODER = {
    **SIZES, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**DECODER)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **DECODER, head_dim=16, sliding_window=8, attn_logit_softcapping=5.0,
            final_logit_softcapping=10.0, query_pre_attn_scalar=16,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4, n_positions=256,
            initializer_range=0.2, bos_token_id=1, eos_token_id=2,
        )
    ),
    "bert": lambda: BertModel(BertConfig(**SIZES), add_pooling_layer=False),
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(
            vocab_size=VOCAB, dim=64, hidden_dim=96, n_layers=2, n_heads=4,
            max_position_embeddings=256, initializer_range=0.2,
        )
    ),
}  # fmt: skip
# Which linears each adapter of the rig changes: different ranks, scalings and target sets.
TARGETS = {
    "llama": (["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
                                     "up_proj", "down_proj"], ["down_proj", "o_proj"]),
    "gpt2": (["c_attn"], ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"], ["c_fc"]),
    "bert": (["query", "value"], ["query", "key", "value", "dense"], ["dense"]),
    "distilbert": (["q_lin", "v_lin"], ["q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2"],
                   ["lin2"]),
}  # fmt: skip
TARGETS["gemma2"] = TARGETS["llama"]
PEFT_TASKS = {
    "generate": "CAUSAL_LM", "encode": "FEATURE_EXTRACTION", "text2text": "SEQ_2_SEQ_LM"
}  # fmt: skip
ANSWERED_S = 60.0
POOLED = ("bert", "roberta", "albert")  # models that make a pooler unless they are told not to


def new_model(model_type: str) -> PreTrainedModel:
    """A tiny random base of any architecture that is served."""
    if model_type in MODELS:
        return MODELS[model_type]()
    tiny = json.loads((Path(__file__).parents[1] / "tiny_bases.json").read_text())[model_type]
    config = AutoConfig.for_model(model_type, **tiny)
    pooler = {"add_pooling_layer": False} if model_type in POOLED else {}
    return FAMILIES[ARCHITECTURES[model_type].task].from_config(config, **pooler)


def targets(card: BaseCard) -> tuple[list[str], list[str], list[str]]:
    """Three sets of linears: two sorts of them, all, and the sort that comes last."""
    if card.model_type in TARGETS:
        return TARGETS[card.model_type]
    names = list(dict.fromkeys(path.rpartition(".")[2] for path in sorted(card.linears)))
    return names[:2], names, names[-1:]


def applied(version: str | None) -> list[Adapter]:
    return [] if version is None else [Adapter(version)]


def only(command: Generate | Encode) -> str | None:
    """The one version that acts on this request; None for the base."""
    assert len(command.adapters) <= 1
    return command.adapters[0].version if command.adapters else None


@dataclass
class Rig:
    """One base, several published versions, and what each of them must answer."""

    engine: Engine
    registry: Registry
    card: BaseCard
    base_path: Path
    model_class: type[PreTrainedModel]
    adapters: list[str] = field(default_factory=list)  # digests
    heads: dict[str, tuple[HeadSpec, dict[str, torch.Tensor]]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    _references: dict[str | None, torch.nn.Module] = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=count)

    def load_plain(self) -> PreTrainedModel:
        """The untouched model; without a pooler, which no adapter of ours may name."""
        pooler = {"add_pooling_layer": False} if self.card.model_type in POOLED else {}
        return self.model_class.from_pretrained(
            self.base_path, attn_implementation="eager", **pooler
        )

    def reference(self, version: str | None) -> torch.nn.Module:
        """The untouched model, with PEFT's own adapter where `version` is one."""
        if version not in self._references:
            model = self.load_plain()
            if version is not None:
                model = PeftModel.from_pretrained(model, self.folders[version])
            self._references[version] = model.eval()
        return self._references[version]

    def new_id(self) -> str:
        return f"request-{next(self._ids)}"

    def generate(self, prompt: list[int], version: str | None, **sampling: object) -> Generate:
        """Of an encoder-decoder, `prompt` is the source, and the decoder begins as it does."""
        options = {"max_tokens": 8, "temperature": 0.0, "logprobs": VOCAB, "ignore_eos": True}
        start = list(self.card.decoder_start)
        return Generate(
            id=self.new_id(), prompt_ids=prompt + start, source=len(prompt) if start else 0,
            adapters=applied(version),
            sampling=Sampling(**(options | sampling)),
        )  # fmt: skip

    def encode(self, prompt: list[int], version: str | None, heads: list[str]) -> Encode:
        return Encode(
            id=self.new_id(), prompt_ids=prompt, adapters=applied(version), heads=heads, embed=True
        )

    def run(self, commands: Sequence[Generate | Encode]) -> dict[str, list[Event]]:
        """Submit everything at once and step until all are answered; events by request id."""
        answers: dict[str, list[Event]] = {command.id: [] for command in commands}
        events = [event for command in commands for event in self.engine.apply(command)]
        open_requests = set(answers)
        deadline = time.monotonic() + ANSWERED_S
        while time.monotonic() < deadline:
            for event in events:
                answers[event.id].append(event)
                if not isinstance(event, Token) or event.finish_reason:
                    open_requests.discard(event.id)
            if not open_requests:
                return answers
            self.engine.wake()
            events = self.engine.step()
            if not events and not self.engine.scheduler.running:
                time.sleep(0.001)  # somebody loads or compiles, in a thread that needs its turn
        raise AssertionError(f"never answered: {sorted(open_requests)}")

    def prove(self, commands: Sequence[Generate | Encode]) -> None:
        """Run all of `commands` at once, and check every answer."""
        answers = self.run(commands)
        for command in commands:
            self.check(command, answers[command.id])

    def check(self, command: Generate | Encode, events: list[Event]) -> None:
        """The oracle: this answer is the one of the version it was asked of, and of no other."""
        assert not any(isinstance(event, Failed) for event in events), events
        if isinstance(command, Generate):
            self._check_tokens(command, events)
        else:
            [answer] = events
            assert isinstance(answer, Encoded)
            self._check_encoded(command, answer)

    @torch.inference_mode()
    def _check_tokens(self, command: Generate, events: list[Event]) -> None:
        generated = [event.token_id for event in events]
        ids = torch.tensor([command.prompt_ids + generated])
        inputs = {"input_ids": ids}
        if command.source:
            inputs = {"input_ids": ids[:, : command.source]}
            inputs["decoder_input_ids"] = ids[:, command.source :]
        logits = self.reference(only(command))(**inputs).logits[0].float()
        wanted = torch.log_softmax(logits[-1 - len(generated) : -1], dim=-1)
        found = torch.full_like(wanted, float("nan"))
        for position, event in enumerate(events):
            tokens, values = zip(*event.top_logprobs, strict=True)
            found[position, list(tokens)] = torch.tensor(values)
        worst = float((found - wanted).abs().max())
        print(f"log-probabilities differ by {worst:.1e} at most")
        assert worst < 1e-4
        best = wanted.topk(2).values
        clear = (best[:, 0] - best[:, 1]) > 1e-3
        assert clear.any(), "the oracle is blind: no token has a clear winner"
        assert (wanted.argmax(-1) == torch.tensor(generated))[clear].all()

    @torch.inference_mode()
    def _check_encoded(self, command: Encode, answer: Encoded) -> None:
        version = only(command)
        model = self.reference(version)
        ids = torch.tensor([command.prompt_ids])
        plain = model if version is None else model.base_model.model
        backbone = {
            "generate": lambda: plain.base_model,
            "encode": lambda: plain,
            "text2text": plain.get_encoder,
        }[self.card.task]()
        hidden = backbone(input_ids=ids).last_hidden_state
        mask = torch.ones_like(ids)
        wanted = pool(hidden, mask, self.card.pooling, self.card.normalize)[0]
        assert (torch.tensor(answer.embedding) - wanted).abs().max() < 1e-4
        assert [head.version for head in answer.heads] == command.heads
        for head in answer.heads:
            spec, tensors = self.heads[head.version]
            pooled = pool(hidden, mask, spec.pooling, spec.normalize)
            expected = head_logits(pooled, tensors["weight"], tensors["bias"])[0]
            assert head.labels == list(spec.labels)
            assert (torch.tensor(head.logits) - expected).abs().max() < 1e-4

    def add_lora(self, folder: Path, targets: list[str], rank: int, seed: int, **options: object):
        """Make a PEFT adapter with weights that matter, save it as PEFT does, and import it."""
        torch.manual_seed(seed)
        model = self.load_plain()
        task = PEFT_TASKS[self.card.task]
        conv1d = {"fan_in_fan_out": True} if self.card.model_type == "gpt2" else {}
        config = LoraConfig(r=rank, target_modules=targets, task_type=task, **conv1d, **options)
        peft = get_peft_model(model, config)
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                # T5 does not scale its scores: larger weights only magnify rounding.
                torch.nn.init.normal_(parameter, std=0.1 if self.card.model_type == "t5" else 0.2)
        peft.save_pretrained(folder)
        version = self.registry.import_peft("local", folder.name, folder, self.card)
        self.adapters.append(version.digest)
        self.folders[version.digest] = folder
        return version

    def add_head(self, name: str, labels: int, pooling: str, seed: int) -> str:
        torch.manual_seed(seed)
        names = tuple(f"label-{i}" for i in range(labels))
        spec = HeadSpec(pooling=pooling, normalize=bool(seed % 2), labels=names)
        tensors = {
            "weight": torch.randn(labels, self.card.hidden_size) / 2,
            "bias": torch.randn(labels),
        }
        part = NewPart(spec=spec, data=save(tensors))
        lineage = Lineage(method="test")
        version = self.registry.publish("local", name, self.card, [part], lineage=lineage)
        self.heads[version.digest] = (spec, tensors)
        return version.digest


@pytest.fixture
def backend() -> str:
    """Which backend a rig gets; a module that must hold on each of them overrides this."""
    return "auto"


@pytest.fixture
def rig(tmp_path: Path, backend: str) -> Iterator[Callable[..., Rig]]:
    """`rig("llama", max_batch_tokens=48)`: an engine with three adapters and three heads."""
    built: list[Rig] = []

    def build(model_type: str, **limits: int) -> Rig:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        path = tmp_path / model_type
        model = new_model(model_type)
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases start as ones and zeros, which hide bugs
                parameter.data += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(path)
        card = BaseCard.read(path, model_type)
        registry = Registry(tmp_path / "home")
        engine_limits = EngineLimits(**({"kv_cache_mib": 4, "backend": backend} | limits))
        base, _ = worker.load(path, card.model_dump_json(), "float32", engine_limits.backend)
        engine = Engine(base, registry.blobs, engine_limits)
        new = Rig(engine, registry, card, path, type(model))
        narrow, wide, odd = targets(card)
        new.add_lora(tmp_path / "narrow", narrow, rank=12, seed=1, lora_alpha=8)
        new.add_lora(tmp_path / "wide", wide, rank=16, seed=2, lora_alpha=16)
        new.add_lora(tmp_path / "odd", odd, rank=6, seed=3, lora_alpha=12, use_rslora=True)
        new.add_head("mood", 3, "mean", seed=4)
        new.add_head("kind", 2, "cls", seed=5)
        new.add_head("tail", 5, "last", seed=6)
        built.append(new)
        return new

    yield build
    for one in built:
        one.engine.close()
