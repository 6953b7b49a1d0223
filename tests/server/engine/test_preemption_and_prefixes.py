"""Rows that were thrown out and read again, or found half read, answer as if nothing happened."""

from __future__ import annotations

import random

from tests.server.engine.thrashing import assert_empty, crowd, thrash


def test_preempted_rows_answer_what_they_would_have_answered(rig):
    one = rig("llama", kv_cache_mib=1, max_batch_tokens=96)
    chance = random.Random(1)
    commands = [
        one.generate(
            [chance.randint(3, 100) for _ in range(chance.randint(20, 60))],
            chance.choice([None, *one.adapters]),
            max_tokens=110,
        )
        for _ in range(40)
    ]
    one.prove(commands)
    assert one.engine.scheduler.preemptions > 5


def test_cached_prefixes_answer_what_they_would_have_answered(rig):
    one = rig("gemma2", max_batch_tokens=64)
    chance = random.Random(2)
    stem = [chance.randint(3, 100) for _ in range(70)]
    for _ in range(3):
        commands = [
            one.generate([*stem[: chance.randint(33, 70)], chance.randint(3, 100)], version)
            for version in [None, *one.adapters] * 2
        ]
        one.prove(commands)
    assert one.engine.scheduler.prefix_hit_tokens >= 32 * 12


def test_what_comes_and_goes_around_long_answers_changes_none(rig, tmp_path):
    """Short of memory for versions and for the cache, with callers who leave at any moment."""
    one = rig("llama", kv_cache_mib=1, max_batch_tokens=48)
    crowd(one, tmp_path)
    told = thrash(one, seed=3)
    print(told)
    assert told["checked"] and told["cancelled"] and told["evicted"]
    assert_empty(one)
