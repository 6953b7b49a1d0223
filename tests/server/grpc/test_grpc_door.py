"""The gRPC door over a real socket and real engines: answers, refusals, cancelling, health."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from rootstock_client import ApiError, GrpcClient, Unreachable
from rootstock_server.api.grpc_api import start_grpc
from rootstock_server.api.handle import Handle
from rootstock_wire.v1 import inference_pb2 as pb
from rootstock_wire.v1.inference_pb2_grpc import InferenceStub

pytestmark = pytest.mark.asyncio(loop_scope="session")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
GREEDY = {"temperature": 0.0, "ignore_eos": True}


def bearer(key: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {key}")]


async def pieces(client: GrpcClient, prompt: Any, **options: Any) -> list[pb.GenerateResponse]:
    return [piece async for piece in client.generate(prompt, **options)]


async def until(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


async def test_a_stream_names_its_digest_on_every_piece_and_ends_with_usage(
    house: Any, client: GrpcClient
) -> None:
    got = await pieces(client, "Hello", model="decoder", max_tokens=8, **GREEDY)
    assert {piece.digest for piece in got} == {house.fingerprint("decoder")}
    assert {piece.model for piece in got} == {"decoder"}
    assert len({piece.id for piece in got}) == 1
    assert sum(len(piece.token_ids) for piece in got) == 8
    assert [piece.finish_reason for piece in got[:-1]] == [""] * 7
    assert not any(piece.HasField("usage") for piece in got[:-1])
    assert got[-1].finish_reason == "length"
    assert (got[-1].usage.prompt_tokens, got[-1].usage.completion_tokens) == (5, 8)
    assert got[-1].usage.total_tokens == 13


async def test_initial_metadata_names_the_digest_before_the_first_piece(house: Any) -> None:
    async with grpc.aio.insecure_channel(house.target) as channel:
        request = pb.GenerateRequest(model="triage", text="Hello", max_tokens=2)
        call = InferenceStub(channel).Generate(request, metadata=bearer(house.local_key))
        metadata = dict(await call.initial_metadata())
        assert metadata["x-rootstock-adapter"] == house.versions["triage"].digest
        assert [piece.digest async for piece in call] == [house.versions["triage"].digest] * 2


async def test_an_adapter_answers_differently_from_its_base_and_names_itself(
    house: Any, client: GrpcClient
) -> None:
    base = await pieces(client, "Hello", model="decoder", max_tokens=12, **GREEDY)
    adapted = await pieces(client, "Hello", model="triage", max_tokens=12, **GREEDY)
    assert adapted[0].digest == house.versions["triage"].digest
    assert [p.token_ids[0] for p in base] != [p.token_ids[0] for p in adapted]


async def test_penalties_bias_and_forms_are_the_same_through_this_door(client: GrpcClient) -> None:
    biased = await pieces(
        client, "Hello", model="decoder", max_tokens=4, logit_bias={7: 100.0}, **GREEDY
    )
    assert [piece.token_ids[0] for piece in biased] == [7] * 4
    damped = await pieces(
        client, "Hello", model="decoder", max_tokens=8, presence_penalty=2.0,
        frequency_penalty=2.0, repetition_penalty=100.0, min_p=0.1, **GREEDY,
    )  # fmt: skip
    assert len({piece.token_ids[0] for piece in damped}) == 8
    for form, texts in (
        ({"regex": "[ab]{3}"}, {x + y + z for x in "ab" for y in "ab" for z in "ab"}),
        ({"choice": {"choices": ["yes", "no"]}}, {"yes", "no"}),
        ({"json": '{"enum": [1, true]}'}, {"1", "true"}),
    ):
        got = await pieces(client, "Hello", model="triage", max_tokens=20, structured_outputs=form)
        assert "".join(piece.text for piece in got) in texts
        assert got[-1].finish_reason == "stop"


async def test_text_token_ids_and_chat_are_three_ways_to_the_same_prompt(
    house: Any, client: GrpcClient
) -> None:
    async def answer(prompt: Any) -> list[int]:
        got = await pieces(client, prompt, model="decoder", max_tokens=6, **GREEDY)
        return [token for piece in got for token in piece.token_ids]

    text = "<user>Hi<assistant>"
    ids = house.handle.bases["decoder"].tokenizer.encode(text)
    as_text = await answer(text)
    assert await answer(ids) == as_text
    assert await answer([{"role": "user", "content": "Hi"}]) == as_text


async def test_a_stop_string_ends_the_stream_and_is_not_part_of_it(client: GrpcClient) -> None:
    whole = await pieces(client, "Hello", model="decoder", max_tokens=24, **GREEDY)
    text = "".join(piece.text for piece in whole)
    stop = next(character for character in text if character.isascii())
    got = await pieces(client, "Hello", model="decoder", max_tokens=24, stop=[stop], **GREEDY)
    assert "".join(piece.text for piece in got) == text[: text.index(stop)]
    assert got[-1].finish_reason == "stop"


@pytest.mark.parametrize("prompt", ["Hi", [{"role": "user", "content": "Hi"}]])
async def test_logprobs_come_with_each_token_when_asked_for(
    client: GrpcClient, prompt: Any
) -> None:
    got = await pieces(client, prompt, model="decoder", max_tokens=3, logprobs=4, **GREEDY)
    for piece in got:
        [logprob] = piece.logprobs
        assert len(logprob.top) == 4
        assert logprob.logprob == max(top.logprob for top in logprob.top) < 0
    plain = await pieces(client, prompt, model="decoder", max_tokens=3, **GREEDY)
    assert not any(piece.logprobs for piece in plain)


async def test_the_same_seed_draws_the_same_tokens(client: GrpcClient) -> None:
    async def drawn(seed: int) -> list[int]:
        options = {"model": "decoder", "max_tokens": 12, "temperature": 1.3, "seed": seed}
        return [p.token_ids[0] for p in await pieces(client, "Hello", ignore_eos=True, **options)]

    assert await drawn(7) == await drawn(7) != await drawn(8)


async def test_classify_answers_every_head_for_every_input(house: Any, client: GrpcClient) -> None:
    answer = await client.classify(["good", "bad"], ["mood", "kind"])
    assert [text.index for text in answer.data] == [0, 1]
    for text in answer.data:
        assert [result.model for result in text.results] == ["mood", "kind"]
        for result in text.results:
            assert result.digest == house.versions[result.model].digest
            assert sum(result.probs.values()) == pytest.approx(1.0)
            assert result.score == result.probs[result.label] == max(result.probs.values())
    assert set(answer.data[0].results[0].probs) == {"glad", "sad", "calm"}
    assert answer.usage.prompt_tokens == len("good") + len("bad")


async def test_a_lone_string_is_one_input(client: GrpcClient) -> None:
    assert len((await client.classify("good", ["mood"])).data) == 1
    assert len((await client.embed("good", model="encoder")).data) == 1


async def test_classify_names_all_digests_in_the_metadata(house: Any) -> None:
    async with grpc.aio.insecure_channel(house.target) as channel:
        request = pb.ClassifyRequest(input=["good"], models=["mood", "kind"])
        call = InferenceStub(channel).Classify(request, metadata=bearer(house.local_key))
        digests = [house.versions[name].digest for name in ("mood", "kind")]
        assert dict(await call.initial_metadata())["x-rootstock-adapter"] == ",".join(digests)
        await call


async def test_embed_gives_one_vector_of_length_one_per_input(
    house: Any, client: GrpcClient
) -> None:
    answer = await client.embed(["good", "bad"], model="encoder")
    assert (answer.model, answer.digest) == ("encoder", house.fingerprint("encoder"))
    assert [embedding.index for embedding in answer.data] == [0, 1]
    for embedding in answer.data:
        assert sum(x * x for x in embedding.values) == pytest.approx(1.0, abs=1e-5)
    assert list(answer.data[0].values) != list(answer.data[1].values)


async def test_a_task_is_answered_by_the_version_its_route_chooses(
    house: Any, client: GrpcClient
) -> None:
    generated = await pieces(client, "Hello", task="support", max_tokens=2, user="u1")
    assert generated[0].digest == house.versions["triage"].digest
    classified = await client.classify("good", task="feeling")
    assert classified.data[0].results[0].digest == house.versions["mood"].digest


async def test_an_abandoned_stream_frees_its_row(house: Any, client: GrpcClient) -> None:
    decoder = house.handle.bases["decoder"].engine
    options = {"model": "decoder", "max_tokens": 4000, "ignore_eos": True}
    async with aclosing(client.generate("Hello", **options)) as answer:
        await anext(answer)
        assert house.handle.in_flight == 1
        await until(lambda: decoder.heartbeat.running == 1)
    await until(lambda: house.handle.in_flight == 0)
    await until(lambda: decoder.heartbeat.running == 0)
    assert decoder.heartbeat.kv_blocks_used == 0


async def test_a_passed_deadline_frees_the_row_too(house: Any) -> None:
    decoder = house.handle.bases["decoder"].engine
    async with GrpcClient(house.target, house.local_key, timeout_s=0.3) as hasty:
        with pytest.raises(Unreachable):
            await pieces(hasty, "Hello", model="decoder", max_tokens=4000, ignore_eos=True)
    await until(lambda: house.handle.in_flight == 0)
    await until(lambda: decoder.heartbeat.running == 0)


METHODS = [
    *(f"/{pb.DESCRIPTOR.services_by_name['Inference'].full_name}/{method.name}"
      for method in pb.DESCRIPTOR.services_by_name["Inference"].methods),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/rootstock.v1.Inference/NoSuchMethod",
    "/no.such.Service/Method",
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("header", ["none", "wrong", "no scheme", "two", "revoked", "expired"])
async def test_without_a_valid_key_nothing_but_health_answers(
    house: Any, method: str, header: str
) -> None:
    metadata = {
        "none": [],
        "wrong": bearer("rsk_wrong"),
        "no scheme": [("authorization", house.local_key)],
        "two": bearer("rsk_wrong") + bearer(house.local_key),
        "revoked": bearer(house.revoked_key),
        "expired": bearer(house.expired_key),
    }[header]
    async with grpc.aio.insecure_channel(house.target) as channel:
        call = channel.unary_stream(method)(b"", metadata=metadata, timeout=60)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [answer async for answer in call]
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert dict(caught.value.trailing_metadata())["code"] == "invalid_api_key"
    if header in ("wrong", "revoked", "expired"):
        assert caught.value.details() == "this API key is not valid here"


async def test_a_key_opens_only_its_own_tenants_adapters(house: Any) -> None:
    async with GrpcClient(house.target, house.acme_key) as acme:
        with pytest.raises(ApiError) as foreign:
            await pieces(acme, "Hello", model="triage")
        with pytest.raises(ApiError) as unknown:
            await pieces(acme, "Hello", model="nobody")
        assert len(await pieces(acme, "Hello", model="decoder", max_tokens=2)) == 2
    assert foreign.value.message.replace("triage", "nobody") == unknown.value.message
    for error in (foreign.value, unknown.value):
        assert (error.status, error.param, error.code) == (404, "model", "model_not_found")


async def test_bytes_that_are_no_message_are_the_callers_fault(house: Any) -> None:
    async with grpc.aio.insecure_channel(house.target) as channel:
        for garbage in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe"):
            call = channel.unary_unary(METHODS[2])(garbage, metadata=bearer(house.local_key))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details() == "the bytes are no rootstock.v1.EmbedRequest"


async def test_a_message_over_the_cap_is_refused_unread(client: GrpcClient) -> None:
    with pytest.raises(ApiError, match="larger than max") as caught:
        await client.embed(["x" * (5 * 1024 * 1024)], model="encoder")
    assert caught.value.status == 413


class BrokenHandle(Handle):
    async def resolve(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the password is swordfish")


async def test_our_own_mistakes_are_internal_and_tell_nothing(house: Any) -> None:
    handle = BrokenHandle.__new__(BrokenHandle)
    handle.__dict__.update(house.handle.__dict__)
    door = await start_grpc(handle, "127.0.0.1:0")
    async with GrpcClient(f"127.0.0.1:{door.port}", house.local_key) as client:
        with pytest.raises(ApiError) as caught:
            await client.embed("good", model="encoder")
    await door.stop()
    assert (caught.value.status, caught.value.type) == (500, "server_error")
    assert "swordfish" not in str(caught.value)


async def check(channel: grpc.aio.Channel, service: str = "") -> int:
    request = health_pb2.HealthCheckRequest(service=service)
    return (await health_pb2_grpc.HealthStub(channel).Check(request)).status


async def becomes(channel: grpc.aio.Channel, status: int) -> None:
    async with asyncio.timeout(60):
        while await check(channel) != status:
            await asyncio.sleep(0.02)


async def test_health_needs_no_key_and_follows_readiness(house: Any) -> None:
    async with grpc.aio.insecure_channel(house.target) as channel:
        assert await check(channel) == SERVING
        assert await check(channel, "rootstock.v1.Inference") == SERVING
        house.handle.draining = True
        try:
            await becomes(channel, NOT_SERVING)
        finally:
            house.handle.draining = False
        await becomes(channel, SERVING)


async def test_a_draining_door_says_so_at_once_to_those_who_watch(house: Any) -> None:
    door = await start_grpc(house.handle, "127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{door.port}") as channel:
        request = health_pb2.HealthCheckRequest(service="rootstock.v1.Inference")
        watch = health_pb2_grpc.HealthStub(channel).Watch(request)
        assert (await watch.read()).status == SERVING
        await door.drain()
        assert (await asyncio.wait_for(watch.read(), 60)).status == NOT_SERVING
        await door.stop()


async def test_a_stopped_door_lets_a_stream_finish_within_the_grace(house: Any) -> None:
    door = await start_grpc(house.handle, "127.0.0.1:0")
    async with GrpcClient(f"127.0.0.1:{door.port}", house.local_key) as client:
        answer = client.generate("Hello", model="decoder", max_tokens=100, ignore_eos=True)
        await anext(answer)
        stopping = asyncio.create_task(door.stop(grace_s=120))
        rest = [piece async for piece in answer]
        await stopping
        assert rest[-1].finish_reason == "length"
        with pytest.raises(Unreachable):
            await client.embed("good", model="encoder")


async def test_a_taken_port_is_an_error_and_not_shared(house: Any) -> None:
    with pytest.raises(OSError, match="cannot listen for gRPC"):
        await start_grpc(house.handle, house.target)


async def reflected(channel: grpc.aio.Channel, key: str, **question: str) -> Any:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(**question)
    call = stub.ServerReflectionInfo(iter([request]), metadata=bearer(key))
    return await call.read()


async def test_a_client_without_our_protos_finds_and_calls_a_method(house: Any) -> None:
    """What grpcurl does for `list`, `describe` and a call with JSON."""
    async with grpc.aio.insecure_channel(house.target) as channel:
        listed = await reflected(channel, house.local_key, list_services="")
        names = [service.name for service in listed.list_services_response.service]
        assert "rootstock.v1.Inference" in names and "grpc.health.v1.Health" in names

        found = await reflected(
            channel, house.local_key, file_containing_symbol="rootstock.v1.Inference"
        )
        pool = descriptor_pool.DescriptorPool()
        for serialized in found.file_descriptor_response.file_descriptor_proto:
            pool.Add(descriptor_pb2.FileDescriptorProto.FromString(serialized))
        method = pool.FindMethodByName("rootstock.v1.Inference.Classify")
        ask = message_factory.GetMessageClass(method.input_type)
        read = message_factory.GetMessageClass(method.output_type)

        request = json_format.ParseDict({"input": ["good"], "models": ["mood"]}, ask())
        raw = await channel.unary_unary(f"/{method.containing_service.full_name}/{method.name}")(
            request.SerializeToString(), metadata=bearer(house.local_key)
        )
        answer = json_format.MessageToDict(read.FromString(raw))
    assert answer["data"][0]["results"][0]["digest"] == house.versions["mood"].digest


async def test_calls_are_counted_like_http_requests(house: Any, client: GrpcClient) -> None:
    await client.embed("good", model="encoder")
    with pytest.raises(ApiError):
        await client.embed("good", model="nobody")
    for status in ("200", "404"):
        labels = f'route="/rootstock.v1.Inference/Embed",status="{status}"'
        name = f"rootstock_requests_total{{{labels}}}"
        # Counted when the call is over, which its caller knows a moment sooner.
        await until(lambda name=name: name in house.handle.telemetry.exposition().decode())


async def test_combined_versions_answer_as_over_http(house: Any, client: GrpcClient) -> None:
    """A real engine: a version at scale 0 is the base, at scale 1 itself; all are named."""
    digest = house.versions["triage"].digest

    async def said(**asked: object) -> tuple[str, str]:
        pieces = [p async for p in client.generate("hello", max_tokens=6, temperature=0, **asked)]
        return "".join(piece.text for piece in pieces), pieces[0].digest

    alone, base = await said(model="triage"), await said(model="decoder")
    whole = await said(model="decoder", adapters=[{"model": "triage"}])
    none = await said(model="decoder", adapters=[{"model": "triage", "scale": 0.0}])
    assert whole == alone == (alone[0], digest)
    assert none == (base[0], digest)
    assert alone[0] != base[0]
    with pytest.raises(ApiError, match="names the base") as refused:
        await said(model="triage", adapters=[{"model": "triage"}])
    assert (refused.value.status, refused.value.param) == (400, "model")
    with pytest.raises(ApiError) as unknown:
        await said(model="decoder", adapters=[{"model": "triage"}, {"model": "nobody"}])
    assert (unknown.value.status, unknown.value.param) == (404, "adapters[1].model")
