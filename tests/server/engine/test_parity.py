"""A packed, mixed, chunked batch answers each row as Hugging Face and PEFT answer it alone."""

from __future__ import annotations

import random

import pytest
from rootstock_adapters.base_card import ARCHITECTURES
from rootstock_server.backends.cpu import cpu

DECODERS = ["llama", "gemma2", "gpt2"]


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    if request.param == "cpu" and not cpu.available():
        pytest.skip("the kernels were not built: make setup")
    return request.param


def mixed_commands(rig, rows: int) -> list:
    """Base rows, every adapter, every head, every combination, prompts of 1 to 70 tokens."""
    chance = random.Random(0)
    versions = [None, *rig.adapters]
    heads = list(rig.heads)
    commands = []
    for number in range(rows):
        prompt = [chance.randrange(10, 120) for _ in range(chance.randint(1, 70))]
        version = versions[number % len(versions)]
        asked = chance.sample(heads, chance.randint(0, len(heads)))
        if rig.card.task == "encode" or number % 3 == 0:
            commands.append(rig.encode(prompt, version, asked))
        else:
            commands.append(rig.generate(prompt, version, max_tokens=chance.randint(1, 20)))
    return commands


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES))
def test_every_row_of_a_mixed_batch_equals_its_model_alone(rig, model_type):
    one = rig(model_type, max_batch_tokens=48)
    commands = mixed_commands(one, rows=24)
    answers = one.run(commands)
    for command in commands:
        one.check(command, answers[command.id])


@pytest.mark.parametrize("model_type", DECODERS)
def test_rows_that_share_an_adapter_equal_their_model_alone(rig, model_type):
    one = rig(model_type, max_batch_tokens=512)
    commands = [one.generate([20 + i, 30, 40 + i], one.adapters[i % 2]) for i in range(10)]
    answers = one.run(commands)
    for command in commands:
        one.check(command, answers[command.id])


@pytest.mark.parametrize("model_type", ["llama", "m2m_100", "t5"])
def test_the_oracle_tells_every_pair_of_versions_apart(rig, model_type):
    """Precondition of everything above: an answer of one version fails as the answer of another."""
    one = rig(model_type)
    versions = [None, *one.adapters]
    for asked in versions:
        command = one.generate([20, 30, 40], asked)
        events = one.run([command])[command.id]
        for claimed in versions:
            other = one.generate([20, 30, 40], claimed)
            if claimed == asked:
                one.check(other, events)
            else:
                with pytest.raises(AssertionError):
                    one.check(other, events)
