"""The requests every system gets, the models they are for, and the order of the runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_server.base.tokenizer import Tokenizer
from safetensors.torch import load_file

from benchmarks import measure as timing
from benchmarks import shapes
from benchmarks.workload import QUICK, SERVING_CPU_S, Ask, Run, WrongAnswer, asks

SETTINGS = replace(QUICK, adapters=4, rounds=2)


class Counting:
    """A system that notes when it runs, and answers at once."""

    def __init__(self, name: str, log: list[str], new_tokens: int = QUICK.new_tokens) -> None:
        self.name, self._log, self._new_tokens = name, log, new_tokens
        self.modes = ("base", "mixed") if name == "a" else ("mixed",)
        self.asked: list[list[Ask]] = []

    def run(self, work: list[Ask], concurrency: int) -> Run:
        self._log.append(self.name)
        self.asked.append(work)
        digests = frozenset({str(ask.adapter) for ask in work[: self._new_tokens]})
        return Run(1.0, len(work) * self._new_tokens, digests=digests)


def test_all_different_means_that_no_two_requests_of_a_run_share_an_adapter() -> None:
    for concurrency in SERVING_CPU_S.concurrencies:
        count = SERVING_CPU_S.requests(concurrency)
        work = asks(SERVING_CPU_S, "mixed", count, 1)
        assert len({ask.adapter for ask in work}) == count
    assert {ask.adapter for ask in asks(SERVING_CPU_S, "same", 8, 1)} == {"a00"}
    assert {ask.adapter for ask in asks(SERVING_CPU_S, "base", 8, 1)} == {None}


def test_prompts_repeat_between_systems_and_not_between_rounds() -> None:
    once, again = (asks(SERVING_CPU_S, "base", 4, 1) for _ in range(2))
    other = asks(SERVING_CPU_S, "base", 4, 2)
    assert once == again
    assert not {ask.prompt for ask in once} & {ask.prompt for ask in other}
    assert {len(ask.prompt) for ask in once} == {64}


def test_systems_take_turns_and_a_system_sits_out_the_modes_it_lacks() -> None:
    log: list[str] = []
    settings = replace(SETTINGS, modes=("base", "mixed"))
    systems = [Counting("a", log), Counting("b", log)]
    told: list[str] = []
    cells = list(timing.measure(settings, systems, told.append))
    assert log == ["a"] * 3 + ["a", "b"] * 3  # one warm round, two that count
    assert len(told) == len(log) == timing.runs(settings, systems)
    assert [(cell.mode, {k: len(v) for k, v in cell.timed.items()}) for cell in cells] == [
        ("base", {"a": 2}),
        ("mixed", {"a": 2, "b": 2}),
    ]
    assert systems[0].asked[3:] == systems[1].asked


def test_a_system_that_makes_too_few_tokens_is_not_timed() -> None:
    with pytest.raises(WrongAnswer, match="14 tokens, not 2 times 8"):
        list(timing.measure(SETTINGS, [Counting("a", [], new_tokens=7)], print))


def test_answers_from_fewer_versions_than_were_asked_are_not_timed() -> None:
    class OneVersion(Counting):
        def run(self, work: list[Ask], concurrency: int) -> Run:
            return replace(super().run(work, concurrency), digests=frozenset({"sha256:a00"}))

    with pytest.raises(WrongAnswer, match="1 versions answered where 2 were asked"):
        list(timing.measure(SETTINGS, [OneVersion("a", [])], print))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_change_all_seven_linears_with_ranks_in_turn(tmp_path: Path) -> None:
    base = shapes.make_base(SETTINGS, tmp_path)
    adapters = shapes.make_adapters(SETTINGS, base, tmp_path)
    assert list(adapters) == ["a00", "a01", "a02", "a03"]
    seen = set()
    for number, folder in enumerate(adapters.values()):
        tensors = load_file(folder / "adapter_model.safetensors")
        down = {name: t for name, t in tensors.items() if "lora_A" in name}
        up = {name: t for name, t in tensors.items() if "lora_B" in name}
        assert len(down) == len(up) == 7 * SETTINGS.shape.layers
        assert {len(t) for t in down.values()} == {(8, 16)[number % 2]}
        assert all(t.abs().max() > 0 for t in up.values())
        seen.add(next(iter(up.values())).flatten()[0].item())
    assert len(seen) == 4


def test_the_base_is_the_same_one_each_time_and_every_id_has_a_text(tmp_path: Path) -> None:
    paths = [shapes.make_base(SETTINGS, tmp_path / name) for name in ("one", "two")]
    cards = [BaseCard.read(path, "bench") for path in paths]
    assert cards[0].fingerprint == cards[1].fingerprint
    assert cards[0].vocab_size == SETTINGS.shape.vocab
    tokenizer = Tokenizer(paths[0])
    assert all(tokenizer.token_text(i) for i in range(SETTINGS.shape.vocab))
