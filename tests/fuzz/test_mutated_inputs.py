"""Whatever bytes a stranger sends: the room's own error, at once, in little memory, no trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.campaign import run
from tests.fuzz.readers import READERS

INPUTS = 300


@pytest.mark.parametrize("reader", READERS)
def test_mutated_bytes_are_refused_in_words_or_read_whole(reader: str, tmp_path: Path) -> None:
    report = run(reader, tmp_path, seed=1, inputs=INPUTS)
    print(report)
    assert report.findings == []
    assert report.inputs == INPUTS == report.refused + report.accepted
    assert report.refused > INPUTS / 4 and report.accepted > 0, "the mutations are blind"
