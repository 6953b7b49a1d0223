"""Memory that is missing when it is needed fails who needed it, for the moment, and nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from rootstock_server.engine.request import Failed
from rootstock_server.errors import DeadlineExceeded, Overloaded

LONG = [10 + (7 * i) % 100 for i in range(70)]
SHORT = [20, 30, 40]
DAY = 24 * 3600.0


def no_main_memory() -> None:
    torch.empty(1 << 55)  # what torch itself raises: more than any machine has


def no_device_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def no_python_memory() -> None:
    bytearray(1 << 62)


KINDS = [no_main_memory, no_device_memory, no_python_memory]


def failing_at(number: int, fail: Callable[[], None], whole: Callable[..., Any]) -> Any:
    """`whole`, whose call `number` (from 1) fails."""
    calls = 0

    def call(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            fail()
        return whole(*args, **options)

    return call


def assert_idle(one: Any) -> None:
    beat = one.engine.heartbeat()
    assert (beat.running, beat.waiting, beat.kv_blocks_used) == (0, 0, 0)
    assert not any(version.leases for version in beat.resident)


@pytest.mark.parametrize("fail", KINDS)
def test_a_step_that_had_no_memory_once_is_not_noticed(rig, monkeypatch, fail):
    """In the base's pass or after it: what was read before is neither lost nor read twice."""
    one = rig("llama", max_batch_tokens=48)
    for place in ("forward", "logits"):
        for number in (1, 2, 3):
            whole = getattr(one.engine._runner, place)
            with monkeypatch.context() as patched:
                patched.setattr(one.engine._runner, place, failing_at(number, fail, whole))
                commands = [one.generate(SHORT, version) for version in [None, *one.adapters]]
                # Read in chunks, beside rows that generate.
                commands += [one.encode(LONG, None, list(one.heads)), one.generate(LONG, None)]
                one.prove(commands)
            assert_idle(one)


@pytest.mark.parametrize("fail", KINDS)
def test_who_never_gets_its_memory_is_told_to_try_again_and_the_others_are_answered(
    rig, monkeypatch, fail
):
    one = rig("llama")
    greedy = one.generate(LONG, one.adapters[0])
    whole = one.engine._runner.forward

    def forward(batch: Any) -> torch.Tensor:
        if any(share.request.id == greedy.id for share in batch.shares):
            fail()
        return whole(batch)

    others = [one.generate(SHORT, version) for version in [None, *one.adapters]]
    with monkeypatch.context() as patched:
        patched.setattr(one.engine._runner, "forward", forward)
        answers = one.run([greedy, *others])
    [failed] = answers[greedy.id]
    assert (failed.error, failed.message.split(";")[0]) == (
        Overloaded.__name__,
        "no memory was left for this request",
    )
    for command in others:
        one.check(command, answers[command.id])
    assert_idle(one)
    one.prove([greedy])


@pytest.mark.parametrize("fail", KINDS)
def test_an_adapter_that_finds_no_memory_fails_its_own_request_until_there_is_some(
    rig, monkeypatch, tmp_path: Path, fail
):
    one = rig("llama")
    # Of a rank for which there are no slots yet: all of their arrays are made for it.
    version = one.add_lora(tmp_path / "new", ["q_proj", "v_proj", "down_proj"], rank=60, seed=9)
    base = one.generate(SHORT, None)
    places = [(one.engine.residency, "_fetch"), (one.engine._slots, "_blank")]
    failed = 0
    for owner, name, numbers in [(*place, (1,)) for place in places] + [
        (one.engine._slots, "_zeros", range(1, 100))
    ]:
        for number in numbers:
            with monkeypatch.context() as patched:
                patched.setattr(owner, name, failing_at(number, fail, getattr(owner, name)))
                wanted = one.generate(SHORT, version.digest)
                answers = one.run([wanted, base])
            one.check(base, answers[base.id])
            [first, *_] = answers[wanted.id]
            if not isinstance(first, Failed):
                break
            assert first.error == Overloaded.__name__
            failed += 1
    assert failed > 4
    one.check(wanted, answers[wanted.id])
    assert_idle(one)


@pytest.mark.parametrize("jump", [-DAY, -3600.0, 3600.0, DAY])
def test_a_clock_that_is_set_ends_no_request_and_keeps_none(rig, monkeypatch, jump):
    one = rig("llama")
    right = time.time
    in_time, late = one.generate(SHORT, None), one.generate(SHORT, None)
    in_time = msgspec.structs.replace(in_time, deadline=time.monotonic() + 600)
    late = msgspec.structs.replace(late, deadline=time.monotonic() - 1)
    monkeypatch.setattr(time, "time", lambda: right() + jump)
    answers = one.run([in_time, late])
    one.check(in_time, answers[in_time.id])
    [failed] = answers[late.id]
    assert failed.error == DeadlineExceeded.__name__
