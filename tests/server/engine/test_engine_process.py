"""The engine as a process, and the client that keeps it: start, cancel, death, return."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import BaseError
from rootstock_adapters.head.spec import HeadSpec
from rootstock_registry import Lineage, NewPart, Registry
from rootstock_server.config import EngineLimits
from rootstock_server.engine.client import EngineClient, error_of
from rootstock_server.engine.request import Encode, Failed, Generate, Sampling, Token
from rootstock_server.errors import BadRequest, CorruptAdapter, Overloaded
from safetensors.torch import load_file, save, save_file
from transformers import LlamaConfig, LlamaForCausalLM

# One loop, so that one engine serves most tests: a process takes seconds to import torch.
pytestmark = pytest.mark.asyncio(loop_scope="module")

CONTEXT = 4096
STARTED_S = 180.0
NEW = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder so small that a step takes a millisecond, with a long context to stream in."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("base") / "toy"
    config = LlamaConfig(
        vocab_size=120, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=CONTEXT, initializer_range=0.2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def head(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home with one head, and its digest."""
    home = tmp_path_factory.mktemp("home")
    registry = Registry(home)
    part = NewPart(
        spec=HeadSpec(pooling="mean", normalize=True, labels=("bad", "good")),
        data=save({"weight": torch.randn(2, 32), "bias": torch.zeros(2)}),
    )
    card = BaseCard.read(folder, "toy")
    version = registry.publish("local", "mood", card, [part], lineage=Lineage(method="test"))
    registry.close()
    return home, version.digest


def client(folder: Path, home: Path, **limits: int) -> EngineClient:
    """`threads` is given: no test wants all cores."""
    card = BaseCard.read(folder, "toy")
    return EngineClient(folder, card, home, "float32", EngineLimits(threads=1, **limits))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder: Path, head: tuple[Path, str]) -> AsyncIterator[EngineClient]:
    one = client(folder, head[0], max_running=8, max_waiting=8)
    await asyncio.wait_for(one.start(), STARTED_S)
    yield one
    await one.close()


def generation(name: str, max_tokens: int = NEW) -> Generate:
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return Generate(id=name, prompt_ids=[20, 30, 40], sampling=sampling)


async def streamed(engine: EngineClient, request: Generate) -> AsyncGenerator[Token]:
    answers: asyncio.Queue = asyncio.Queue()
    finished = None
    with engine.answering([request], answers):
        while finished is None:
            answer = await answers.get()
            if isinstance(answer, Failed):
                raise error_of(answer)
            finished = answer.finish_reason
            yield answer


async def tokens(engine: EngineClient, request: Generate) -> list[int]:
    return [token.token_id async for token in streamed(engine, request)]


async def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def process_of(engine: EngineClient) -> asyncio.subprocess.Process:
    process = engine._supervisor._process
    assert process is not None
    return process


@torch.inference_mode()
def reference(folder: Path) -> list[int]:
    model = LlamaForCausalLM.from_pretrained(folder)
    ids = [20, 30, 40]
    for _ in range(NEW):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[3:]


async def test_it_generates_and_encodes_as_the_base_does(engine, folder, head) -> None:
    assert engine.alive and engine.started.dtype == "float32"
    both = await asyncio.gather(*(tokens(engine, generation(name)) for name in "ab"))
    assert both == [reference(folder)] * 2
    encode = Encode(id="c", prompt_ids=[20, 30], heads=[head[1]], embed=True)
    encoded = await engine.encode(encode)
    assert [answer.labels for answer in encoded.heads] == [["bad", "good"]]
    assert len(encoded.embedding) == 32
    await eventually(lambda: engine.heartbeat and engine.heartbeat.resident)
    assert engine.heartbeat.resident[0].version == head[1]


async def test_refusals_are_raised_as_what_they_are(engine) -> None:
    with pytest.raises(BadRequest, match="context of 4096"):
        await tokens(engine, generation("long", CONTEXT))
    unknown = Encode(id="u", prompt_ids=[20], heads=["sha256:" + "0" * 64])
    with pytest.raises(CorruptAdapter):
        await engine.encode(unknown)
    assert await tokens(engine, generation("after"))
    assert not engine._waiting


async def test_a_closed_iterator_frees_its_row_at_once(engine) -> None:
    """Two steps later, says the contract: the next heartbeats count steps and rows."""
    stream = streamed(engine, generation("long", 4000))
    assert isinstance(await anext(stream), Token)
    await eventually(lambda: engine.heartbeat and engine.heartbeat.running == 1)
    assert engine.heartbeat.kv_blocks_used > 0
    await stream.aclose()
    await eventually(lambda: engine.heartbeat.running == 0)
    assert engine.heartbeat.kv_blocks_used == 0
    after = engine.heartbeat.steps
    await asyncio.sleep(1.2)  # two heartbeats later nothing has run any more
    assert engine.heartbeat.steps == after


async def test_a_cancelled_task_frees_its_row(engine) -> None:
    task = asyncio.create_task(tokens(engine, generation("long", 4000)))
    await eventually(lambda: engine.heartbeat and engine.heartbeat.running == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: engine.heartbeat.running == 0)
    assert not engine._waiting


async def test_a_full_queue_is_overloaded_for_who_comes_last(engine) -> None:
    """Eight run and eight wait; the others are told at once."""
    running = [asyncio.create_task(tokens(engine, generation(f"r{n}", 4000))) for n in range(8)]
    await eventually(lambda: engine.heartbeat and engine.heartbeat.running == 8)
    waiting = [asyncio.create_task(tokens(engine, generation(f"w{n}"))) for n in range(12)]
    await eventually(lambda: sum(task.done() for task in waiting) >= 4)
    done = [task for task in waiting if task.done()]
    pending = [task for task in waiting if not task.done()]
    assert len(done) == 4
    assert all(isinstance(task.exception(), Overloaded) for task in done)
    for task in (*running, *pending):
        task.cancel()
    await asyncio.gather(*running, *pending, return_exceptions=True)
    assert await tokens(engine, generation("after"))


async def test_a_killed_engine_fails_what_was_in_flight_and_comes_back(engine, folder) -> None:
    in_flight = [asyncio.create_task(tokens(engine, generation(f"l{n}", 4000))) for n in range(4)]
    await eventually(lambda: engine.heartbeat and engine.heartbeat.running == 4)
    killed, first = time.monotonic(), process_of(engine).pid
    os.kill(first, signal.SIGKILL)
    # Some are sent while nobody has noticed yet: no command may wait for the next engine.
    late = []
    while time.monotonic() - killed < 0.3:
        late.append(asyncio.create_task(tokens(engine, generation(f"late{len(late)}"))))
        await asyncio.sleep(0.005)
    outcomes = await asyncio.wait_for(asyncio.gather(*in_flight, *late, return_exceptions=True), 60)
    assert all(isinstance(outcome, Overloaded) for outcome in outcomes)
    assert engine.alive  # it is loading again
    await eventually(lambda: engine._ready.done(), STARTED_S)
    assert process_of(engine).pid != first
    assert await tokens(engine, generation("after")) == reference(folder)
    await eventually(lambda: engine.heartbeat and engine.heartbeat.running == 0)


async def test_closing_ends_the_process_and_whoever_waits(folder, head) -> None:
    one = client(folder, head[0])
    await asyncio.wait_for(one.start(), STARTED_S)
    task = asyncio.create_task(tokens(one, generation("a", 4000)))
    await asyncio.sleep(0.1)
    pid = process_of(one).pid
    await asyncio.wait_for(one.close(), 60)
    with pytest.raises(Overloaded):
        await task
    assert gone(pid)
    assert not one._folder.exists()


async def refused(folder: Path, home: Path, card: BaseCard, dtype: str = "float32") -> str:
    """The words of a base's refusal, after which no process is left."""
    one = EngineClient(folder, card, home, dtype, EngineLimits(threads=1))
    try:
        with pytest.raises(BaseError) as caught:
            await asyncio.wait_for(one.start(), STARTED_S)
        assert process_of(one).returncode is not None
        await asyncio.sleep(0.7)  # longer than the wait before a restart
        assert process_of(one).returncode is not None
    finally:
        await one.close()
    return str(caught.value)


async def test_a_base_with_a_missing_weight_is_refused_in_words(folder, tmp_path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    message = await refused(broken, tmp_path, BaseCard.read(broken, "broken"))
    assert "broken" in message and "model.norm.weight" in message


async def test_a_dtype_that_is_not_served_is_refused_in_words(folder, tmp_path) -> None:
    message = await refused(folder, tmp_path, BaseCard.read(folder, "toy"), "float16")
    assert "float16" in message


FRONT_END = """
import asyncio, json, sys
from pathlib import Path
from rootstock_adapters.base_card import BaseCard
from rootstock_server.config import EngineLimits
from rootstock_server.engine.client import EngineClient
from rootstock_server.engine.request import Generate, Sampling

async def main(folder, home):
    card = BaseCard.read(folder, "toy")
    engine = EngineClient(folder, card, home, "float32", EngineLimits(threads=1))
    await engine.start()
    sampling = Sampling(max_tokens=4000, temperature=0.0, ignore_eos=True)
    request = Generate(id="a", prompt_ids=[20], sampling=sampling)
    answers = asyncio.Queue()
    with engine.answering([request], answers):
        await answers.get()
        print(engine._supervisor._process.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def gone(pid: int) -> bool:
    """Ended, though whoever inherited it may not have asked for its exit code yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def test_the_engine_leaves_when_its_front_end_is_gone(folder, tmp_path) -> None:
    """Killed while a row streams, and after it has not read for a while."""
    front = subprocess.Popen(
        [sys.executable, "-c", FRONT_END, str(folder), str(tmp_path)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        pid = int(front.stdout.readline())
        assert not gone(pid)
        front.send_signal(signal.SIGSTOP)
        time.sleep(1.5)
    finally:
        front.kill()
        front.wait(60)
        front.stdout.close()
    deadline = time.monotonic() + 60
    while not gone(pid):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            pytest.fail("the engine has outlived its front end")
        time.sleep(0.02)


async def test_requests_before_the_engine_is_loaded_are_overloaded(folder, tmp_path) -> None:
    one = client(folder, tmp_path)
    assert not one.alive
    with pytest.raises(Overloaded, match="starting"):
        await tokens(one, generation("a"))
    starting = asyncio.create_task(one.start())
    await eventually(lambda: one._supervisor._process is not None)
    assert one.alive
    with pytest.raises(Overloaded, match="starting"):
        await tokens(one, generation("b"))
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert process_of(one).returncode is not None
    await one.close()
