"""A gRPC door over real engines on two tiny random bases, with adapters, tenants, keys, a route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from fastapi import FastAPI
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.lora.spec import LoraSpec
from rootstock_client import GrpcClient
from rootstock_registry import Lineage, NewPart, Registry, Version
from rootstock_server.api.grpc_api import GrpcDoor, start_grpc
from rootstock_server.api.handle import Handle
from rootstock_server.app import build_app
from rootstock_server.config import BaseSource, Config, EngineLimits, Limits
from rootstock_server.engine.client import EngineClient
from safetensors.torch import save
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

CONTEXT = 4096
LIMITS = Limits(engine=EngineLimits(kv_cache_mib=16, threads=1, max_running=8))
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@dataclass(frozen=True)
class House:
    """Everything behind the door, the door, and the keys to it."""

    app: FastAPI  # the HTTP door of the same house
    registry: Registry
    handle: Handle
    door: GrpcDoor
    versions: dict[str, Version]
    local_key: str
    acme_key: str
    revoked_key: str
    expired_key: str

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.door.port}"

    def fingerprint(self, base: str) -> str:
        return self.handle.bases[base].card.fingerprint


def _write_base(folder: Path, model: PreTrainedModel, template: str | None) -> None:
    """The model with a tokenizer whose tokens are the 256 bytes."""
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    if template:
        (folder / "chat_template.jinja").write_text(template)


def _decoder(folder: Path) -> None:
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,
        bos_token_id=256,
        eos_token_id=257,
    )
    _write_base(folder, LlamaForCausalLM(config), TEMPLATE)


def _encoder(folder: Path) -> None:
    config = BertConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.2,
    )
    _write_base(folder, BertModel(config, add_pooling_layer=False), None)


def _publish(registry: Registry, cards: dict[str, BaseCard]) -> dict[str, Version]:
    specs = {
        "mood": HeadSpec(pooling="mean", normalize=True, labels=("glad", "sad", "calm")),
        "kind": HeadSpec(pooling="mean", normalize=True, labels=("praise", "complaint")),
        "triage": LoraSpec(r=8, lora_alpha=16, target_modules=tuple(cards["decoder"].linears)),
    }
    versions = {}
    for name, spec in specs.items():
        card = cards["decoder" if name == "triage" else "encoder"]
        tensors = {key: 0.3 * torch.randn(shape) for key, shape in spec.tensor_shapes(card).items()}
        part = NewPart(spec=spec, data=save(tensors))
        lineage = Lineage(method="test")
        versions[name] = registry.publish(
            "local", name, card, [part], lineage=lineage, promote="prod"
        )
    return versions


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    torch.manual_seed(0)
    tmp = tmp_path_factory.mktemp("grpc")
    _decoder(tmp / "decoder")
    _encoder(tmp / "encoder")
    cards = {name: BaseCard.read(tmp / name, name) for name in ("decoder", "encoder")}
    registry = Registry(tmp / "home")
    for card in cards.values():
        registry.add_base(card)
    versions = _publish(registry, cards)
    registry.set_route("local", "support", {"triage@prod": 1})
    registry.set_route("local", "feeling", {"mood@prod": 1})
    registry.create_tenant("acme")
    keys = [registry.create_key(tenant, "caller")[1] for tenant in ("local", "acme")]
    taken, revoked = registry.create_key("local", "admin")
    registry.revoke_key("local", taken)
    _, expired = registry.create_key("local", "admin", expires_at=datetime.now(UTC))
    keys += [revoked, expired]
    engines = {
        name: EngineClient(tmp / name, card, tmp / "home", "float32", LIMITS.engine)
        for name, card in cards.items()
    }
    for engine in engines.values():
        await engine.start()
    sources = tuple(BaseSource(name=name, path=tmp / name) for name in cards)
    config = Config(home=tmp / "home", bases=sources, limits=LIMITS)
    app = build_app(config, registry, engines)
    handle = app.state.handle
    door = await start_grpc(handle, "127.0.0.1:0")
    yield House(app, registry, handle, door, versions, *keys)
    await door.stop()
    for engine in engines.values():
        await engine.close()


@pytest_asyncio.fixture(loop_scope="session")
async def client(house: House) -> AsyncIterator[GrpcClient]:
    async with GrpcClient(house.target, house.local_key) as client:
        yield client
