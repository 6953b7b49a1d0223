"""Decode steps that are replayed on the CPU answer, to the bit, as the base's own modules do."""

from __future__ import annotations

import random

import pytest
import torch
from rootstock_adapters.base_card import ARCHITECTURES
from rootstock_server.backends.cpu import cpu, recordings
from rootstock_server.engine.request import Adapter, Generate, Sampling

if not cpu.available():
    pytest.skip("the kernels were not built: make setup", allow_module_level=True)

DECODERS = sorted(name for name, kind in ARCHITECTURES.items() if kind.task == "generate")


@pytest.fixture
def backend() -> str:
    return "cpu"


def commands(rig) -> list[Generate]:
    """Rows that end one after another; the base's, every adapter's, whole and in part."""
    chance = random.Random(0)
    made = []
    for number in range(10):
        version = [None, *rig.adapters][number % 4]
        scale = 1.0 if number < 6 else 0.5
        applied = [] if version is None else [Adapter(version, scale)]
        prompt = [chance.randrange(10, 110) for _ in range(chance.randint(1, 20))]
        sampling = Sampling(max_tokens=4 + number, temperature=0.0, logprobs=20, ignore_eos=True)
        made.append(
            Generate(id=rig.new_id(), prompt_ids=prompt, adapters=applied, sampling=sampling)
        )
    return made


def answers(rig) -> list[list[tuple]]:
    asked = commands(rig)
    told = rig.run(asked)
    return [[(e.token_id, e.top_logprobs) for e in told[command.id]] for command in asked]


@pytest.mark.parametrize("model_type", DECODERS)
def test_replayed_steps_answer_as_the_modules_do(rig, model_type):
    one = rig(model_type)
    kept = one.engine.base.backend.recordings
    kept.failure = "not yet"
    answers(one)  # the adapters come: from here on every step is made up of the same rows
    plain = answers(one)
    kept.failure = None
    for _ in range(3):  # recorded, proven, replayed
        assert answers(one) == plain
    assert kept.failure is None
    assert len(kept) >= 10
    assert all(recording.proven for recording in kept._kept.values())


def test_a_version_that_comes_into_a_slot_is_not_answered_as_the_last_one_there(rig, tmp_path):
    one = rig("llama", adapter_memory_mib=1)
    for _ in range(3):
        one.prove([one.generate([20, 30], version, max_tokens=5) for version in one.adapters])
    for number in range(4):  # the arrays grow, and are others from then on
        one.add_lora(tmp_path / f"new-{number}", ["q_proj", "up_proj"], rank=12, seed=50 + number)
    for version in [*one.adapters, *one.adapters]:
        one.prove([one.generate([20, 30], version, max_tokens=5)])
    assert one.engine.base.backend.recordings.failure is None


def test_a_number_that_a_recording_cannot_know_is_noticed(rig, monkeypatch, caplog):
    one = rig("llama")
    base, kept = one.engine.base, one.engine.base.backend.recordings
    own = base._eager

    def longer(step):
        return own(step) * (1 + step.rows[0].kv_length / 100)

    monkeypatch.setattr(base, "_eager", longer)
    kept.failure = "not yet"
    plain = [answers(one) for _ in range(2)][1]
    kept.failure = None
    for _ in range(2):
        assert answers(one) == plain
    assert kept.failure == "a replayed step differed from the step itself"
    assert "decode steps run unrecorded" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda hidden: hidden * hidden.abs().max().item(), "takes a number out of a tensor"),
        (lambda hidden, sums=[]: hidden + _running_sum(sums, hidden), "every step shares"),
    ],
)
def test_what_cannot_be_replayed_runs_as_it_is(rig, monkeypatch, spoil, why):
    one = rig("llama")
    base = one.engine.base
    own = base._eager
    monkeypatch.setattr(base, "_eager", lambda step: spoil(own(step)))
    answers(one)
    assert why in base.backend.recordings.failure


def _running_sum(sums: list, hidden: torch.Tensor) -> torch.Tensor:
    """A constant that every step adds to."""
    if not sums:
        sums.append(torch.zeros(hidden.shape[-1]))
    sums[0].add_(hidden[0])
    return sums[0]


def test_recordings_are_bounded_and_so_are_their_rows(rig, monkeypatch):
    monkeypatch.setattr(recordings, "MOST", 3)
    monkeypatch.setattr(recordings, "MOST_ROWS", 8)
    one = rig("llama")
    for _ in range(2):
        answers(one)
    kept = one.engine.base.backend.recordings
    assert len(kept) == 3
    assert all(rows <= 8 for rows, _, _ in kept._kept)


def test_a_step_that_fails_fails_as_it_would_and_recording_goes_on(rig, monkeypatch):
    one = rig("llama")
    base = one.engine.base
    own = base._eager

    def failing(step):
        raise RuntimeError("no memory")

    monkeypatch.setattr(base, "_eager", failing)
    command = one.generate([20, 30], None)
    [event] = one.run([command])[command.id]
    assert event.error == "ServerFault"
    monkeypatch.setattr(base, "_eager", own)
    one.prove([one.generate([20, 30], None)])
    assert base.backend.recordings.failure is None
    assert len(base.backend.recordings)
