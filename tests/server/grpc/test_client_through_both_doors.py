"""The Python clients against the whole server: HTTP and gRPC give the same answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
import uvicorn
from peft import LoraConfig, get_peft_model
from rootstock_adapters.kinds import parse_spec
from rootstock_client import ApiError, AsyncClient, Client, GrpcClient
from rootstock_registry import Lineage, NewPart, Version
from rootstock_registry.blob_names import key_of
from rootstock_wire.native import Classification
from rootstock_wire.openai import ChatCompletion, Completion
from rootstock_wire.registry import AdapterVersionDetail
from safetensors.torch import save
from transformers import LlamaForCausalLM

pytestmark = pytest.mark.asyncio(loop_scope="session")

GREEDY = {"temperature": 0.0, "ignore_eos": True, "max_tokens": 12}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(house: Any) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(house.app, lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await running


@pytest_asyncio.fixture(loop_scope="session")
async def http(house: Any, url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(url, house.local_key) as http:
        yield http


async def over_grpc(client: GrpcClient, prompt: Any, model: str) -> tuple[str, str, list[int]]:
    pieces = [piece async for piece in client.generate(prompt, model=model, **GREEDY)]
    ids = [token for piece in pieces for token in piece.token_ids]
    return "".join(piece.text for piece in pieces), pieces[0].digest, ids


@pytest.mark.parametrize("model", ["decoder", "triage", "triage:1", "triage@prod"])
async def test_completions_are_the_same(http: AsyncClient, client: GrpcClient, model: str) -> None:
    answer = await http.complete(model, "Hello", return_token_ids=True, **GREEDY)
    [choice] = answer.choices
    text, digest, ids = await over_grpc(client, "Hello", model)
    assert (choice.text, answer.system_fingerprint, choice.token_ids) == (text, digest, ids)


async def test_chat_is_the_same_whole_streamed_and_over_grpc(
    http: AsyncClient, client: GrpcClient
) -> None:
    whole = await http.chat("triage", HELLO, **GREEDY)
    async with await http.stream_chat("triage", HELLO, **GREEDY) as stream:
        digest = stream.digest
        pieces = [piece async for piece in stream]
    text = whole.choices[0].message.content
    assert (text, whole.system_fingerprint) == ("".join(pieces), digest)
    assert (stream.finish_reason, stream.usage) == ("length", whole.usage)
    assert (text, digest) == (await over_grpc(client, HELLO, "triage"))[:2]


async def test_classifications_are_the_same(http: AsyncClient, client: GrpcClient) -> None:
    inputs, models = ["good", "bad day"], ["mood", "kind"]
    answer = await http.classify(inputs, models)
    same = await client.classify(inputs, models)
    for text, twin in zip(answer.data, same.data, strict=True):
        for result, other in zip(text.results, twin.results, strict=True):
            assert (result.model, result.digest, result.label) == (
                other.model,
                other.digest,
                other.label,
            )
            assert result.probs == pytest.approx(dict(other.probs), abs=1e-5)


async def test_embeddings_are_the_same(http: AsyncClient, client: GrpcClient) -> None:
    answer = await http.embed("encoder", ["good", "bad day"])
    same = await client.embed(["good", "bad day"], model="encoder")
    assert answer.system_fingerprint == same.digest
    for one, twin in zip(answer.data, same.data, strict=True):
        assert one.embedding == pytest.approx(list(twin.values), abs=1e-5)


async def test_a_task_answers_in_the_shape_of_its_question(house: Any, http: AsyncClient) -> None:
    assert isinstance(await http.task("support", messages=HELLO, max_tokens=2), ChatCompletion)
    assert isinstance(await http.task("support", prompt="Hello", max_tokens=2), Completion)
    verdict = await http.task("feeling", input="good")
    assert isinstance(verdict, Classification)
    assert verdict.system_fingerprint == house.versions["mood"].digest


async def test_models_lists_bases_and_the_tenants_adapters(http: AsyncClient) -> None:
    ids = {card.id for card in (await http.models()).data}
    assert {"decoder", "encoder", "triage", "mood", "kind"} <= ids


async def test_a_folder_that_peft_saved_is_sent_and_answers(
    house: Any, url: str, tmp_path: Path
) -> None:
    model = LlamaForCausalLM.from_pretrained(house.handle.bases["decoder"].path)
    tuned = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    tuned.save_pretrained(tmp_path)
    _, secret = house.registry.create_key("local", "publisher")

    def send() -> tuple[AdapterVersionDetail, Completion, Completion]:
        with Client(url, secret) as client:
            made = client.import_peft("sent", tmp_path, promote="prod")
            asked = (client.complete(model, "Hello", **GREEDY) for model in ("sent", "decoder"))
            return made, *asked

    made, mine, bases = await asyncio.to_thread(send)
    card = house.handle.bases["decoder"].card
    assert made.digest == house.registry.import_peft("acme", "hand", tmp_path, card).digest
    assert (made.id, made.base, made.aliases) == ("sent:1", "decoder", ["prod"])
    assert mine.system_fingerprint == made.digest
    assert mine.choices[0].text != bases.choices[0].text
    async with AsyncClient(url, house.acme_key) as caller:
        with pytest.raises(ApiError, match="needs the role publisher"):
            await caller.import_peft("sent", tmp_path)


async def test_a_refusal_is_the_same_exception_from_both(
    http: AsyncClient, client: GrpcClient
) -> None:
    with pytest.raises(ApiError) as over_http:
        await http.complete("nobody", "Hello")
    with pytest.raises(ApiError) as over_grpc:
        await anext(client.generate("Hello", model="nobody"))
    assert vars(over_http.value) == vars(over_grpc.value)


async def test_the_blocking_client_streams_and_closing_early_frees_the_row(
    house: Any, url: str
) -> None:
    def ask() -> str:
        with Client(url, house.local_key) as client:
            options = {"max_tokens": 4000, "ignore_eos": True}
            with client.stream_chat("decoder", HELLO, **options) as stream:
                next(stream)
                return stream.digest

    assert await asyncio.to_thread(ask) == house.fingerprint("decoder")
    async with asyncio.timeout(60):  # or the row of a closed stream still runs
        while house.handle.in_flight:
            await asyncio.sleep(0.02)


async def test_damage_is_met_once_refused_at_both_doors_and_repaired_by_publishing(
    house: Any, http: AsyncClient, client: GrpcClient
) -> None:
    whole = house.registry.resolve("local", "triage")
    card = house.handle.bases["decoder"].card
    spec = parse_spec("lora", whole.manifest.parts[0].config)
    shapes = spec.tensor_shapes(card)
    part = NewPart(spec, save({name: torch.ones(shape) for name, shape in shapes.items()}))

    def publish() -> Version:
        return house.registry.publish(
            "local", "hurt", card, [part], lineage=Lineage(method="test"), promote="prod"
        )

    blob = publish().manifest.parts[0].blob
    file = house.registry.blobs._shelf._root / key_of(blob)
    file.chmod(0o600)
    file.write_bytes(part.data[:-1] + b"!")
    expected = await http.complete("triage", "Hello", **GREEDY)
    others = [asyncio.create_task(http.complete("triage", "Hello", **GREEDY)) for _ in range(4)]
    with pytest.raises(ApiError) as met:
        await http.complete("hurt", "Hello", **GREEDY)
    assert (met.value.status, met.value.code) == (500, "corrupt_adapter")
    for answer in await asyncio.gather(*others):
        assert answer.choices[0].text == expected.choices[0].text
    assert "rootstock_quarantined_versions_total 1.0" in (
        house.handle.telemetry.exposition().decode()
    )
    file.write_bytes(part.data)  # whole again, but nobody reads it
    words = []
    for asking in (http.complete("hurt", "Hello", **GREEDY), over_grpc(client, "Hello", "hurt")):
        with pytest.raises(
            ApiError, match=r"hurt:1 is quarantined since .* part 1 \(lora\): "
        ) as e:
            await asking
        words.append(e.value.message)
    assert words[0] == words[1]
    publish()
    answer = await http.complete("hurt", "Hello", **GREEDY)
    assert answer.system_fingerprint == house.registry.resolve("local", "hurt").digest
    told = [row.action for row in house.registry.evidence.audit(object="hurt:1")]
    assert told == ["release", "quarantine", "publish"]
    house.registry.delete_adapter("local", "hurt", force=True)
