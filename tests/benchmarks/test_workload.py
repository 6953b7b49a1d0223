"""The requests every system gets, the models they are for, and what counts as an answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_cli.bench.load import Answer, Load
from rootstock_registry import Registry
from rootstock_server.base.tokenizer import Tokenizer
from safetensors.torch import load_file

from benchmarks import shapes
from benchmarks.workload import ADAPTERS, BASE_NAME, SHAPES, WrongAnswer, asks, run_of

S, TINY = SHAPES["S"], SHAPES["tiny"]


def test_all_different_means_that_no_two_requests_of_a_run_share_an_adapter() -> None:
    for shape in SHAPES.values():
        count = shape.requests(16)
        work = asks(shape, "mixed", count, 1, ADAPTERS)
        assert len({ask.model for ask in work}) == count
    assert {ask.model for ask in asks(S, "same", 8, 1, ADAPTERS)} == {"a0000"}
    assert {ask.model for ask in asks(S, "base", 8, 1, ADAPTERS)} == {BASE_NAME}


def test_popular_adapters_are_asked_more_often_and_rare_ones_too() -> None:
    models = [ask.model for ask in asks(TINY, "power law", 2000, 1, 1000)]
    assert models.count("a0000") > models.count("a0001") > models.count("a0009") > 0
    assert len(set(models)) > 300


def test_prompts_repeat_between_systems_and_not_between_rounds() -> None:
    once, again = (asks(S, "base", 4, 1, 0) for _ in range(2))
    other = asks(S, "base", 4, 2, 0)
    assert once == again
    assert not {ask.prompt for ask in once} & {ask.prompt for ask in other}
    assert {len(ask.prompt) for ask in once} == {64}


def test_only_a_load_that_is_whole_is_a_run() -> None:
    work = [replace(ask, new_tokens=2) for ask in asks(TINY, "mixed", 2, 1, ADAPTERS)]
    one = Answer("a0000", 0.0, (0.1, 0.3), "sha256:one")
    two = Answer("a0001", 0.0, (0.2, 0.3), "sha256:two")
    run = run_of(Load((one, two), 0.5), work)
    assert run.figures["tokens_per_s"] == pytest.approx(8)
    assert run.figures["first_token_p95_s"] == pytest.approx(0.2)
    with pytest.raises(WrongAnswer, match="1 of 2 requests failed: cut"):
        run_of(Load((one, replace(two, error="cut")), 0.5), work)
    with pytest.raises(WrongAnswer, match="3 tokens came, not 4"):
        run_of(Load((one, replace(two, arrivals=(0.1,))), 0.5), work)
    with pytest.raises(WrongAnswer, match="1 versions answered where 2 were asked"):
        run_of(Load((one, replace(two, digest=one.digest)), 0.5), work)


def test_adapters_change_all_seven_linears_with_ranks_in_turn(tmp_path: Path) -> None:
    base = shapes.make_base(TINY, tmp_path / "base")
    card = BaseCard.read(base, "bench")
    registry, seen = Registry(tmp_path / "home"), set()
    for number in range(3):
        folder = shapes.make_adapter(TINY, base, number, tmp_path / str(number))
        tensors = load_file(folder / "adapter_model.safetensors")
        down = {name: t for name, t in tensors.items() if "lora_A" in name}
        up = {name: t for name, t in tensors.items() if "lora_B" in name}
        assert len(down) == len(up) == 7 * TINY.layers
        assert {len(t) for t in down.values()} == {(8, 16)[number % 2]}
        assert all(t.abs().max() > 0 for t in up.values())
        seen.add(registry.import_peft("local", f"a{number}", folder, card).digest)
    registry.close()
    assert len(seen) == 3


def test_the_base_is_the_same_one_each_time_and_every_id_has_a_text(tmp_path: Path) -> None:
    paths = [shapes.make_base(TINY, tmp_path / name) for name in ("one", "two")]
    cards = [BaseCard.read(path, "bench") for path in paths]
    assert cards[0].fingerprint == cards[1].fingerprint
    assert cards[0].vocab_size == TINY.vocab
    tokenizer = Tokenizer(paths[0])
    assert all(tokenizer.token_text(i) for i in range(TINY.vocab))
