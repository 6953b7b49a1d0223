"""Mutated bytes for a minute into each reader of a stranger's bytes; what the library reads of
5,000 files that we accept. Some minutes.

Not collected by `pytest`: `make soak` names this file. FUZZ_SEED chooses the seed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, seed, settings

from tests.adapters.nearly_sound import files, read_as_the_library_reads_it
from tests.fuzz.campaign import run
from tests.fuzz.readers import READERS

SEED = int(os.environ.get("FUZZ_SEED", "20261123"))
SECONDS = 60.0
EXAMPLES = 5000


@pytest.mark.parametrize("reader", READERS)
def test_a_minute_of_mutated_bytes(reader: str, tmp_path: Path) -> None:
    report = run(reader, tmp_path, SEED, inputs=10**9, seconds=SECONDS)
    print(f"\n{report}")
    assert report.findings == []
    assert report.inputs == report.refused + report.accepted


def test_what_is_accepted_of_five_thousand_files_is_what_the_library_reads() -> None:
    counts = {True: 0, False: 0}

    @seed(SEED)
    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(files())
    def examine(data: bytes) -> None:
        counts[read_as_the_library_reads_it(data)] += 1

    examine()
    print(f"\nseed {SEED}: {counts[True]} files accepted, {counts[False]} refused")
    assert counts[True] > EXAMPLES / 10 and counts[False] > EXAMPLES / 10
