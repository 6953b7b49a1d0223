"""Two tiny random bases with tokenizers, adapters made by PEFT, and a server process over them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.spec import HeadSpec
from rootstock_registry import Lineage, NewPart, Registry
from safetensors.torch import save
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = ["the quick brown fox jumps over the lazy dog and says hello to the world"] * 3
SPECIAL = ["<pad>", "<s>", "</s>", "<|turn|>"]
TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant:{% endif %}"
)
SERVE = (
    "import json, sys; from rootstock_server.app import serve; "
    "from rootstock_server.config import load; serve(load(json.loads(sys.argv[1])))"
)
START_S = 240.0
CONTEXT = 2048  # long enough for a stream to be met while it runs


def _tokenizer(folder: Path, *, chat: bool) -> int:
    """Write a small byte-level BPE; returns its size."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(WORDS, trainer)
    if not chat:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    whole = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    if chat:
        whole.chat_template = TEMPLATE
    whole.save_pretrained(folder)
    return backend.get_vocab_size()


def _sizes(vocabulary: int) -> dict[str, object]:
    return {
        "vocab_size": vocabulary, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256,
        "initializer_range": 0.2, "pad_token_id": 0,
    }  # fmt: skip


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders: the decoder `tiny`, the encoder `reader`, and two PEFT adapters of `tiny`."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("tiny")
    folders = {name: root / name for name in ("tiny", "reader", "loud", "calm")}
    sizes = _sizes(_tokenizer(folders["tiny"], chat=True))
    sizes["max_position_embeddings"] = CONTEXT
    config = LlamaConfig(**sizes, num_key_value_heads=2, bos_token_id=1, eos_token_id=2)
    LlamaForCausalLM(config).save_pretrained(folders["tiny"])
    sizes = _sizes(_tokenizer(folders["reader"], chat=False))
    BertModel(BertConfig(**sizes), add_pooling_layer=False).save_pretrained(folders["reader"])
    for name in ("loud", "calm"):
        base = AutoModelForCausalLM.from_pretrained(folders["tiny"])
        low_rank = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj", "down_proj"])
        model = get_peft_model(base, low_rank)
        for parameter_name, parameter in model.named_parameters():
            if "lora_" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folders[name])
    return folders


def head(width: int, labels: tuple[str, ...]) -> NewPart:
    spec = HeadSpec(pooling="mean", normalize=True, labels=labels)
    tensors = {"weight": torch.randn(len(labels), width), "bias": torch.zeros(len(labels))}
    return NewPart(spec, save(tensors))


def fill(home: Path, tiny: dict[str, Path]) -> Registry:
    """`local`: loud and calm on tiny, mood and kind on reader. `acme`: calm."""
    torch.manual_seed(1)
    registry = Registry(home)
    cards = {name: BaseCard.read(tiny[name], name) for name in ("tiny", "reader")}
    for card in cards.values():
        registry.add_base(card)
    registry.create_tenant("acme")
    for tenant, name in (("local", "loud"), ("local", "calm"), ("acme", "calm")):
        registry.import_peft(tenant, name, tiny[name], cards["tiny"], promote="prod")
    for name, labels in (("mood", ("bad", "fine", "good")), ("kind", ("ask", "tell"))):
        registry.publish(
            "local", name, cards["reader"], [head(64, labels)],
            lineage=Lineage(method="test"), promote="prod",
        )  # fmt: skip
    return registry


@pytest.fixture
def filled(tiny: dict[str, Path]) -> Callable[[Path], Registry]:
    """`filled(home)`: the registry that `fill` makes there."""
    return lambda home: fill(home, tiny)


@dataclass
class Server:
    """A server process and what it wrote about itself."""

    process: subprocess.Popen[bytes]
    home: Path
    url: str
    grpc: str
    log: Path

    def stop(self, seconds: float = 120.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


Start = Callable[..., Server]


def _start(home: Path, tiny: dict[str, Path], settings: dict[str, object]) -> Server:
    values: dict[str, object] = {
        "home": str(home),
        "bases": [f"tiny={tiny['tiny']}", f"reader={tiny['reader']}"],
        "port": 0, "grpc_port": 0, "no_sidecar": True, "no_auth": True,
        "limits": {"engine": {"threads": 1, "kv_cache_mib": 16, "max_waiting": 64}},
    }  # fmt: skip
    log = home / "server.log"
    environment = {key: x for key, x in os.environ.items() if not key.startswith("ROOTSTOCK_")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, json.dumps(values | settings)],
            stdout=out, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    facts = home / "run" / "server.json"
    deadline = time.monotonic() + START_S
    while not facts.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the server did not start: {log.read_text()[-3000:]}")
        time.sleep(0.05)
    said = json.loads(facts.read_text())
    return Server(process, home, said["url"], said["grpc"], log)


@pytest.fixture(scope="session")
def start_server(tiny: dict[str, Path]) -> Iterator[Start]:
    """Start servers with `start_server(home, **settings)`; all are gone at the end."""
    started: list[Server] = []

    def start(home: Path, **settings: object) -> Server:
        started.append(_start(home, tiny, settings))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Path], start_server: Start
) -> Server:
    """One server without keys, shared by the tests that only ask."""
    home = tmp_path_factory.mktemp("home")
    fill(home, tiny).close()
    return start_server(home)
