"""One row's failure is that row's alone: not its neighbours', not the next one's."""

from __future__ import annotations

import pytest
import torch
from rootstock_server.backends.cpu import cpu
from rootstock_server.engine.request import Cancel, Failed, Token
from rootstock_server.errors import BadRequest, ServerFault

LONG = [10 + (7 * i) % 100 for i in range(70)]  # three KV blocks
SHORT = [20, 30, 40]
POISON = 119  # a token whose embedding is not a number


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    if request.param == "cpu" and not cpu.available():
        pytest.skip("the kernels were not built: make setup")
    return request.param


def poison(rig) -> None:
    """As an overflow inside the base would: everything that reads this token becomes NaN."""
    rig.engine.base.backbone.embed_tokens.weight.data[POISON] = float("nan")


def failures(events: list) -> list[str]:
    return [event.error for event in events if isinstance(event, Failed)]


def test_a_row_that_is_not_a_number_fails_alone(rig):
    """The broken row comes first and owns the first blocks; its neighbours have fewer blocks."""
    one = rig("llama")
    poison(one)
    bad = one.generate([*LONG[:-1], POISON], None)
    good = [one.generate([*SHORT, n], version) for n, version in enumerate([None, *one.adapters])]
    good += [one.generate(LONG, None), one.encode(SHORT, None, list(one.heads))]
    answers = one.run([bad, *good])
    assert failures(answers[bad.id]) == ["ServerFault"]
    assert "numerical_error" in answers[bad.id][-1].message
    for command in good:
        one.check(command, answers[command.id])


def test_a_row_that_breaks_while_it_decodes_fails_alone(rig):
    one = rig("llama")
    # The longest row's blocks set the width of the gather, and the broken row owns the first one.
    commands = [one.generate(LONG[:20], None), one.generate(LONG, None)]
    commands += [one.generate([*SHORT, n], None) for n in range(4)]
    for command in commands:
        assert one.engine.apply(command) == []
    events = [event for _ in range(3) for event in one.engine.step()]
    broken = one.engine.scheduler.running[0]
    assert broken.id == commands[0].id
    broken.tokens[-1] = POISON
    poison(one)
    while one.engine.busy:
        events += one.engine.step()
    answers = {c.id: [e for e in events if e.id == c.id] for c in commands}
    assert failures(answers[commands[0].id]) == ["ServerFault"]
    for command in commands[1:]:
        one.check(command, answers[command.id])


def test_a_broken_rows_blocks_do_not_poison_the_next(rig):
    one = rig("llama")
    poison(one)
    blocks = one.engine._blocks
    assert blocks.take(blocks.total - 6)
    for broken in (one.generate([*LONG[:-1], POISON], None), one.encode([POISON, 9], None, [])):
        assert failures(one.run([broken])[broken.id]) == ["ServerFault"]
        after = [one.generate([*LONG[:40], n], one.adapters[n], max_tokens=4) for n in range(3)]
        answers = one.run(after)
        for command in after:
            one.check(command, answers[command.id])


def test_a_broken_row_that_is_cancelled_half_read_does_not_poison_the_next(rig):
    """It never had an output that could have been found not to be finite."""
    one = rig("llama", max_batch_tokens=8)
    poison(one)
    blocks = one.engine._blocks
    assert blocks.take(blocks.total - 3)  # nothing is left but the blocks that both will have
    broken = one.generate([POISON] * 70, None)
    one.engine.apply(broken)
    for _ in range(4):
        assert one.engine.step() == []
    one.engine.apply(Cancel(broken.id))
    after = one.generate(SHORT, None, max_tokens=4)
    one.check(after, one.run([after])[after.id])


@pytest.mark.parametrize("token", [120, 5000, -1])
def test_a_token_that_the_base_does_not_have_is_refused_before_it_meets_others(rig, token):
    one = rig("llama")
    good, bad = one.generate(SHORT, None), one.generate([20, token], None)
    answers = one.run([good, bad])
    assert failures(answers[bad.id]) == [BadRequest.__name__]
    one.check(good, answers[good.id])


def test_a_step_that_raises_answers_its_requests_and_the_engine_goes_on(rig, monkeypatch):
    one = rig("llama")
    with monkeypatch.context() as patched:
        patched.setattr(one.engine._runner, "forward", _raise)
        commands = [one.generate(SHORT, version) for version in [None, *one.adapters]]
        answers = one.run(commands)
    for command in commands:
        [failed] = answers[command.id]
        assert failed.error == ServerFault.__name__
        assert "secret" not in failed.message
    beat = one.engine.heartbeat()
    assert (beat.running, beat.kv_blocks_used) == (0, 0)
    assert not any(version.leases for version in beat.resident)
    after = one.generate(SHORT, one.adapters[1])
    one.check(after, one.run([after])[after.id])


def _raise(batch: object) -> torch.Tensor:
    raise RuntimeError("secret of the code")


def test_a_temperature_next_to_nothing_is_nobodys_problem(rig):
    one = rig("llama")
    good, cold = one.generate(SHORT, None), one.generate(SHORT, None, temperature=1e-44)
    answers = one.run([good, cold])
    one.check(good, answers[good.id])
    one.check(cold, answers[cold.id])
    assert all(isinstance(event, Token) for event in answers[cold.id])
