"""Aliases move while clients stream: every answer is the reference of the digest that it names."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Registry
from transformers import AutoModelForCausalLM

ADAPTERS, VERSIONS, SWAPS, CLIENTS = 4, 3, 200, 8
TOKENS, LONG = 16, 600
CLEAR = 1e-3  # between the best two logits: closer ones may change places by rounding
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# More than the server's 1 MiB for adapters: swapping also loads and evicts all the time.
SHAPES = [(["q_proj", "v_proj"], 4), (["down_proj"], 16), (ALL, 40), (ALL, 64)]
PROMPTS = tuple(tuple(range(start, start + 6)) for start in (20, 60, 100, 140, 180))


@dataclass
class Stage:
    """A server, its registry, and for every version what Hugging Face and PEFT answer."""

    url: str
    registry: Registry
    digests: list[list[str]]  # [adapter][version]
    folders: dict[str, Path]
    base: Path
    references: dict[tuple[str, tuple[int, ...]], list[int]] = field(default_factory=dict)

    def model(self, digest: str) -> torch.nn.Module:
        base = AutoModelForCausalLM.from_pretrained(self.base)
        return PeftModel.from_pretrained(base, self.folders[digest]).eval()

    def refer(self) -> None:
        for digest in self.folders:
            answers = greedy(self.model(digest), PROMPTS, TOKENS)
            for prompt, answer in zip(PROMPTS, answers, strict=True):
                self.references[digest, prompt] = answer


@torch.inference_mode()
def greedy(
    model: torch.nn.Module, prompts: tuple[tuple[int, ...], ...], count: int
) -> list[list[int]]:
    """The `count` best tokens after each prompt (of one length), as far as they are clear."""
    fed, past = torch.tensor(prompts), None
    columns, clear = [], torch.ones(len(prompts), dtype=torch.bool)
    kept = torch.zeros(len(prompts), dtype=torch.long)
    for _ in range(count):
        out = model(input_ids=fed, past_key_values=past, use_cache=True)
        best = out.logits[:, -1].topk(2)
        clear &= best.values[:, 0] - best.values[:, 1] > CLEAR
        kept += clear
        past, fed = out.past_key_values, best.indices[:, :1]
        columns.append(fed)
    tokens = torch.cat(columns, dim=1).tolist()
    return [row[:length] for row, length in zip(tokens, kept.tolist(), strict=True)]


def make_adapter(base: Path, folder: Path, targets: list[str], rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory, tiny, start_server) -> Iterator[Stage]:
    home, made = tmp_path_factory.mktemp("swap"), tmp_path_factory.mktemp("made")
    registry = Registry(home)
    card = BaseCard.read(tiny["tiny"], "tiny")
    registry.add_base(card)
    digests: list[list[str]] = []
    folders = {}
    for adapter, (targets, rank) in enumerate(SHAPES):
        digests.append([])
        for version in range(VERSIONS):
            folder = made / f"{adapter}-{version}"
            make_adapter(tiny["tiny"], folder, targets, rank, seed=10 * adapter + version)
            imported = registry.import_peft("local", f"swap-{adapter}", folder, card)
            digests[-1].append(imported.digest)
            folders[imported.digest] = folder
        registry.promote("local", f"swap-{adapter}:1", "prod")
    engine = {"threads": 1, "kv_cache_mib": 16, "adapter_memory_mib": 1}
    server = start_server(home, bases=[f"tiny={tiny['tiny']}"], limits={"engine": engine})
    one = Stage(server.url, registry, digests, folders, tiny["tiny"])
    one.refer()
    yield one
    server.stop()
    registry.close()


@dataclass
class Answer:
    adapter: int
    prompt: tuple[int, ...]
    asked: float
    begun: float = 0.0
    digest: str = ""
    fingerprints: set[str] = field(default_factory=set)
    tokens: list[int] = field(default_factory=list)


async def stream(
    http: httpx.AsyncClient, answer: Answer, max_tokens: int = TOKENS
) -> AsyncIterator[int]:
    """Fill `answer` from the server's events; yields after each one how many tokens there are."""
    body = {
        "model": f"swap-{answer.adapter}", "prompt": list(answer.prompt), "stream": True,
        "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True,
    }  # fmt: skip
    async with http.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        answer.begun = time.monotonic()
        answer.digest = response.headers["x-rootstock-adapter"]
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            assert "error" not in event, event
            answer.fingerprints.add(event["system_fingerprint"])
            for choice in event["choices"]:
                answer.tokens += choice.get("token_ids") or []
            yield len(answer.tokens)


@dataclass
class Move:
    """One move of an alias. Between `asked` and `done` it may have happened or not."""

    digest: str
    asked: float
    done: float


def could_name(moves: list[Move], answer: Answer) -> bool:
    """Whether the alias meant the answer's digest at some moment while it was being resolved."""
    ends = [*(move.done for move in moves[1:]), float("inf")]
    return any(
        move.digest == answer.digest and move.asked <= answer.begun and end >= answer.asked
        for move, end in zip(moves, ends, strict=True)
    )


async def swap(stage: Stage, moves: list[list[Move]]) -> None:
    """Move the aliases of all adapters in turns, each time to another version."""
    chance = random.Random(0)
    for number in range(SWAPS):
        adapter = number % ADAPTERS
        ours = stage.digests[adapter]
        others = [digest for digest in ours if digest != moves[adapter][-1].digest]
        digest = chance.choice(others)
        ref, asked = f"swap-{adapter}:{ours.index(digest) + 1}", time.monotonic()
        await asyncio.to_thread(stage.registry.promote, "local", ref, "prod")
        moves[adapter].append(Move(digest, asked, time.monotonic()))
        await asyncio.sleep(0.03)


async def keep_asking(
    http: httpx.AsyncClient, seed: int, swapping: asyncio.Task[None]
) -> list[Answer]:
    chance = random.Random(seed)
    answers = []
    while not swapping.done():
        answer = Answer(chance.randrange(ADAPTERS), chance.choice(PROMPTS), time.monotonic())
        async for _ in stream(http, answer):
            pass
        answers.append(answer)
    return answers


async def test_two_hundred_swaps_under_eight_streams_answer_what_they_name(stage: Stage) -> None:
    moves = [[Move(ours[0], 0.0, 0.0)] for ours in stage.digests]
    async with httpx.AsyncClient(base_url=stage.url, timeout=120) as http:
        swapping = asyncio.create_task(swap(stage, moves))
        asking = [keep_asking(http, seed, swapping) for seed in range(CLIENTS)]
        answers = [answer for some in await asyncio.gather(*asking) for answer in some]
        await swapping
    assert sum(map(len, moves)) == SWAPS + ADAPTERS
    assert {answer.digest for answer in answers} == set(stage.folders)
    for answer in answers:
        assert answer.fingerprints == {answer.digest}
        assert could_name(moves[answer.adapter], answer)
        wanted = stage.references[answer.digest, answer.prompt]
        assert len(answer.tokens) == TOKENS
        assert answer.tokens[: len(wanted)] == wanted


def test_the_references_tell_the_versions_apart(stage: Stage) -> None:
    """Precondition of the test above: nearly all tokens are clear, and no two versions agree."""
    lengths = [len(answer) for answer in stage.references.values()]
    assert sum(lengths) > 0.9 * TOKENS * len(lengths)
    answers = {
        tuple(map(tuple, (stage.references[digest, prompt] for prompt in PROMPTS)))
        for digest in stage.folders
    }
    assert len(answers) == ADAPTERS * VERSIONS


async def test_request_in_flight_keeps_the_version_it_started_with(stage: Stage) -> None:
    first, second = stage.digests[0][:2]
    stage.registry.promote("local", "swap-0:1", "prod")
    async with httpx.AsyncClient(base_url=stage.url, timeout=120) as http:
        running = Answer(0, PROMPTS[0], time.monotonic())
        events = stream(http, running, LONG)
        while await anext(events) < 5:
            pass
        stage.registry.promote("local", "swap-0:2", "prod")
        late = Answer(0, PROMPTS[0], time.monotonic())
        async for _ in stream(http, late):
            pass
        assert len(running.tokens) < LONG, "the stream ended before the swap could meet it"
        async for _ in events:
            pass
    assert (running.digest, late.digest) == (first, second)
    assert running.fingerprints == {first} and late.fingerprints == {second}
    wanted = stage.references[second, PROMPTS[0]]
    assert late.tokens[: len(wanted)] == wanted
    [wanted] = greedy(stage.model(first), PROMPTS[:1], LONG)
    assert len(running.tokens) == LONG
    assert running.tokens[: len(wanted)] == wanted
    assert len(wanted) > 100, "the reference is clear only before the swap"
