"""An encoder-decoder in continuous batches: sources are read while others' targets are written."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from rootstock_server.engine.request import Cancel, Failed, Generate, Sampling, Token

BASES = ["m2m_100", "t5"]


@pytest.mark.parametrize("model_type", BASES)
def test_greedy_answers_are_those_of_hugging_face_generate(rig, model_type):
    """With the language that is forced first, as its translation pipeline asks for it."""
    one = rig(model_type)
    language, source = 77, [20, 30, 40, 50, 60]
    start = [*one.card.decoder_start, language]
    command = Generate(
        id="greedy", prompt_ids=source + start, source=len(source),
        sampling=Sampling(max_tokens=12, temperature=0.0),
    )  # fmt: skip
    events = one.run([command])["greedy"]
    wanted = one.reference(None).generate(
        torch.tensor([source]),
        forced_bos_token_id=language,
        max_new_tokens=13,
        do_sample=False,
        use_cache=False,
    )
    assert [*start, *(event.token_id for event in events)] == wanted[0].tolist()


@pytest.mark.parametrize("model_type", BASES)
def test_a_source_that_is_read_while_others_are_written_changes_nothing(rig, model_type):
    one = rig(model_type, max_batch_tokens=32)
    early = [
        one.generate([20 + i, 30, 40], v, max_tokens=20)
        for i, v in enumerate([None, *one.adapters])
    ]
    late = [
        one.generate([50 + i] * 40, v, max_tokens=5) for i, v in enumerate([None, *one.adapters])
    ]
    answers = {command.id: [] for command in early + late}
    pending = [early, [], [], late[:1], [], late[1:]]
    while any(not finished(events) for events in answers.values()):
        one.engine.wake()
        arriving = pending.pop(0) if pending else []
        events = [event for command in arriving for event in one.engine.apply(command)]
        for event in events + one.engine.step():
            answers[event.id].append(event)
    for command in early + late:
        one.check(command, answers[command.id])


def finished(events: list) -> bool:
    return bool(events) and (isinstance(events[-1], Failed) or bool(events[-1].finish_reason))


@pytest.mark.parametrize("model_type", BASES)
def test_cancelling_frees_what_was_remembered_of_the_source(rig, model_type):
    one = rig(model_type)
    stays, goes = (
        one.generate([20, 30], None, max_tokens=9),
        one.generate([40] * 30, None, max_tokens=99),
    )
    one.engine.apply(stays)
    one.engine.apply(goes)
    events = []
    for _ in range(4):
        events += one.engine.step()
    [memory] = [weakref.ref(r.memory) for r in one.engine.scheduler.running if r.id == goes.id]
    assert memory().source
    one.engine.apply(Cancel(goes.id))
    gc.collect()
    assert memory() is None
    while one.engine.busy:
        events += one.engine.step()
    assert one.engine.heartbeat().kv_blocks_used == 0
    one.check(stays, [e for e in events if isinstance(e, Token) and e.id == stays.id])


@pytest.mark.parametrize("model_type", BASES)
def test_sources_hold_blocks_so_that_what_is_remembered_of_them_is_bounded(rig, model_type):
    """Of three that do not fit at once, one waits, and one makes room and is read again."""
    one = rig(model_type, kv_cache_mib=1)
    for _ in range(one.engine.heartbeat().kv_blocks - 5):
        one.engine._blocks.take(1)
    commands = [one.generate([30 + i] * 60, None, max_tokens=40) for i in range(3)]
    events = [event for command in commands for event in one.engine.apply(command)]
    answers = {command.id: [] for command in commands}
    most = 0
    while one.engine.busy:
        for event in events + one.engine.step():
            answers[event.id].append(event)
        events = []
        most = max(most, sum(bool(r.memory) for r in one.engine.scheduler.running))
    assert most == 2
    assert one.engine.scheduler.preemptions > 0
    for command in commands:
        one.check(command, answers[command.id])


@pytest.mark.parametrize("model_type", BASES)
def test_a_request_without_a_source_or_a_beginning_is_refused(rig, model_type):
    one = rig(model_type)
    for source in (0, 3):
        command = Generate(
            id="x", prompt_ids=[20, 30, 40], source=source, sampling=Sampling(max_tokens=3)
        )
        [event] = one.engine.apply(command)
        assert isinstance(event, Failed)
        assert event.error == "BadRequest"


@pytest.mark.parametrize("model_type", BASES)
def test_source_and_target_each_have_the_whole_context(rig, model_type):
    one = rig(model_type, max_batch_tokens=64)
    length = one.card.context_length
    start = len(one.card.decoder_start)
    fits = one.generate([33] * length, None, max_tokens=length - start)
    events = one.run([fits])[fits.id]
    one.check(fits, events)
    for too_long in (
        one.generate([33] * (length + 1), None, max_tokens=1),
        one.generate([33], None, max_tokens=length - start + 1),
    ):
        [event] = one.engine.apply(too_long)
        assert isinstance(event, Failed)
