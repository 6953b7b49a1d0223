"""The front end over a real socket and a real registry, with an engine that plays a script.

The engine is scripted so that stop strings, disconnects, refusals and full queues come exactly
when a test wants them; what real weights answer is tested in tests/e2e.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import pytest_asyncio
import uvicorn
from fastapi import FastAPI
from rootstock_adapters.base_card import BaseCard, Task
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.lora.spec import LoraSpec
from rootstock_registry import Lineage, NewPart, Registry
from rootstock_server.api.handle import Handle
from rootstock_server.app import build_app
from rootstock_server.config import Config, load
from rootstock_server.engine.client import EngineClient
from rootstock_server.engine.request import (
    Encode,
    Encoded,
    Generate,
    HeadAnswer,
    Heartbeat,
    Resident,
    Token,
)
from rootstock_server.errors import RootstockError
from safetensors.numpy import save
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

CONTEXT = 64
VOCAB = 256
WIDTH = 4
LABELS = ("bad", "good")
MODULE = "layers.0.self_attn.q_proj"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


class ScriptedEngine(EngineClient):
    """Answers every generation with the bytes of `says`, every pass with made-up numbers.

    From token number `at` on, `pause` is waited for and `refusal` raised. With `stops_itself`
    an end token follows where there is room for it.
    """

    def __init__(self, card: BaseCard) -> None:
        self.card = card
        self.says = "hello world"
        self.pause: asyncio.Event | None = None
        self.refusal: RootstockError | None = None
        self.at = 0
        self.generated: list[Generate] = []
        self.encoded: list[Encode] = []
        self.cancelled: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.living = True
        self.stops_itself = False
        self.heartbeat = Heartbeat(
            running=2,
            waiting=1,
            kv_blocks_used=5,
            kv_blocks=20,
            steps=1,
            preemptions=0,
            prefix_hit_tokens=0,
            resident=[Resident(version="sha256:" + "ab" * 32, bytes=1, leases=0)],
        )

    @property
    def alive(self) -> bool:
        return self.living

    @contextmanager
    def answering(self, requests, answers) -> Iterator[None]:
        for request in requests:
            self._tasks[request.id] = asyncio.create_task(self._answer(request, answers))
        try:
            yield
        finally:
            for request in requests:
                self.cancel(request.id)

    def cancel(self, request_id: str) -> None:
        if task := self._tasks.pop(request_id, None):
            self.cancelled.append(request_id)
            task.cancel()

    async def _answer(self, request: Generate, answers: asyncio.Queue) -> None:
        self.generated.append(request)
        sampling = request.sampling
        said = ids_of(self.says)
        ids = [*said, *([0] if self.stops_itself else [])][: sampling.max_tokens]
        for place, token_id in enumerate(ids):
            if place >= self.at:
                try:
                    await self._obstacle()
                except RootstockError as refusal:
                    del self._tasks[request.id]
                    answers.put_nowait(refusal)
                    return
            last = place + 1 == len(ids)
            token = Token(
                id=request.id,
                token_id=token_id,
                logprob=-0.5 if sampling.logprobs is not None else None,
                top_logprobs=[(token_id, -0.5), (0, -2.0)][: sampling.logprobs or 0],
                finish_reason=("stop" if place == len(said) else "length") if last else None,
            )
            if last:
                del self._tasks[request.id]
            answers.put_nowait(token)
            await asyncio.sleep(0)

    async def _obstacle(self) -> None:
        if self.pause is not None:
            await self.pause.wait()
        if self.refusal is not None:
            raise self.refusal

    async def encode(self, request: Encode) -> Encoded:
        self.encoded.append(request)
        try:
            await self._obstacle()
        except asyncio.CancelledError:
            self.cancelled.append(request.id)
            raise
        size = float(len(request.prompt_ids))
        return Encoded(
            id=request.id,
            embedding=[size, 0.5, -1.0, 0.0] if request.embed else None,
            heads=[
                HeadAnswer(version=digest, labels=list(LABELS), logits=[0.0, size])
                for digest in request.heads
            ],
        )


_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def _backend() -> Backend:
    backend = Backend(models.BPE(vocab={c: i for i, c in enumerate(_BYTES)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


_TOKENIZER = _backend()


def ids_of(text: str) -> list[int]:
    return list(_TOKENIZER.encode(text).ids)


def card(name: str, task: Task, mark: str) -> BaseCard:
    return BaseCard(
        name=name,
        fingerprint="sha256:" + mark * 64,
        model_type="llama" if task == "generate" else "bert",
        task=task,
        hidden_size=WIDTH,
        layers=1,
        vocab_size=VOCAB,
        context_length=CONTEXT,
        pooling="last" if task == "generate" else "mean",
        normalize=True,
        linears={MODULE: (WIDTH, WIDTH)},
    )


def head() -> NewPart:
    spec = HeadSpec(pooling="mean", normalize=True, labels=LABELS)
    return NewPart(spec, save({"weight": np.ones((2, WIDTH), "f4"), "bias": np.ones(2, "f4")}))


def low_rank(value: float = 1.0) -> NewPart:
    spec = LoraSpec(r=2, lora_alpha=4, target_modules=(MODULE,))
    down, up = np.full((2, WIDTH), value, "f4"), np.ones((WIDTH, 2), "f4")
    return NewPart(spec, save({f"{MODULE}.lora_A.weight": down, f"{MODULE}.lora_B.weight": up}))


@dataclass
class House:
    """The served front end and everything behind it."""

    url: str
    app: FastAPI
    registry: Registry
    engines: dict[str, ScriptedEngine]
    http: httpx.AsyncClient

    @property
    def handle(self) -> Handle:
        return self.app.state.handle

    @property
    def decoder(self) -> ScriptedEngine:
        return self.engines["toy"]

    @property
    def encoder(self) -> ScriptedEngine:
        return self.engines["reader"]

    def digest(self, ref: str, tenant: str = "local") -> str:
        return self.registry.resolve(tenant, ref).digest

    async def post(self, path: str, body: object, **kwargs: object) -> httpx.Response:
        return await self.http.post(path, json=body, **kwargs)  # type: ignore[arg-type]

    @staticmethod
    def ids(text: str) -> list[int]:
        return ids_of(text)

    @staticmethod
    async def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait until `condition()` holds; fail after `seconds`."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    def key(self, tenant: str, role: str = "caller") -> dict[str, str]:
        _, secret = self.registry.create_key(tenant, role)
        return {"authorization": f"Bearer {secret}"}


CARDS = {"toy": card("toy", "generate", "1"), "reader": card("reader", "encode", "2")}


@pytest.fixture(scope="session")
def filled_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry made once and copied for each test: publishing waits for the disk."""
    home = tmp_path_factory.mktemp("filled")
    registry = Registry(home)
    _fill(registry, CARDS)
    registry.close()
    return home


def _fill(registry: Registry, cards: dict[str, BaseCard]) -> None:
    """Adapters of `local` on both bases and on one that is not served; one adapter of `acme`."""
    lineage = Lineage(method="test")
    elsewhere = card("elsewhere", "generate", "9")
    for each in (*cards.values(), elsewhere):
        registry.add_base(each)
    registry.create_tenant("acme")
    toy, reader = cards["toy"], cards["reader"]
    plan = {
        "a": (toy, [low_rank(1)]),
        "b": (toy, [low_rank(2)]),
        "both": (toy, [low_rank(3), head()]),
        "mood": (reader, [head()]),
        "kind": (reader, [head(), low_rank(4)]),
        "unserved": (elsewhere, [low_rank(5)]),
    }
    for name, (base, parts) in plan.items():
        registry.publish("local", name, base, parts, lineage=lineage, promote="prod")
    registry.publish("acme", "own", toy, [low_rank(6)], lineage=lineage, promote="prod")


def write_bases(folder: Path) -> dict[str, Path]:
    """What the front end reads of a base, for each of two."""
    folders = {}
    for name in ("toy", "reader"):
        folders[name] = folder / name
        folders[name].mkdir()
        _TOKENIZER.save(str(folders[name] / "tokenizer.json"))
    (folders["toy"] / "chat_template.jinja").write_text(TEMPLATE)
    return folders


@pytest.fixture
def base_folders(tmp_path: Path) -> dict[str, Path]:
    return write_bases(tmp_path)


@pytest.fixture
def settings() -> dict[str, object]:
    """What a test changes about the configuration, by overriding this fixture."""
    return {"no_auth": True}


def configuration(
    folder: Path, base_folders: dict[str, Path], settings: dict[str, object]
) -> Config:
    bases = [f"{name}={path}" for name, path in base_folders.items()]
    return load({"home": folder / "home", "bases": bases, **settings}, {})


@pytest.fixture
def configured(
    tmp_path: Path, base_folders: dict[str, Path], settings: dict[str, object]
) -> Config:
    return configuration(tmp_path, base_folders, settings)


@pytest_asyncio.fixture
async def house(configured: Config, filled_home: Path) -> AsyncIterator[House]:
    async with opened(configured, filled_home) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_house(
    tmp_path_factory: pytest.TempPathFactory, filled_home: Path
) -> AsyncIterator[House]:
    """One for a whole module of requests that are to change nothing."""
    folder = tmp_path_factory.mktemp("shared")
    settings: dict[str, object] = {"no_auth": True, "limits": {"max_file_bytes": 2_000_000}}
    async with opened(configuration(folder, write_bases(folder), settings), filled_home) as one:
        yield one


@contextlib.asynccontextmanager
async def opened(config: Config, filled_home: Path) -> AsyncIterator[House]:
    shutil.copytree(filled_home, config.home, dirs_exist_ok=True)
    registry = Registry(config.home)
    engines = {name: ScriptedEngine(each) for name, each in CARDS.items()}
    app = build_app(config, registry, engines)
    async with listening(app) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
        yield House(url, app, registry, engines, http)
    registry.close()


@contextlib.asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[str]:
    with _socket() as listener:
        server = uvicorn.Server(
            uvicorn.Config(app, http="h11", lifespan="off", log_config=None, access_log=False)
        )
        # Not `serve`: it would take the test run's own signals.
        running = asyncio.create_task(server._serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await running


@contextlib.contextmanager
def _socket() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # As the server's own: without it a small answer waits 40 ms for an acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield listener
