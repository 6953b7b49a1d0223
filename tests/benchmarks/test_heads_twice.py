"""The benchmark of two heads: its texts differ, and the second head embeds nothing."""

from __future__ import annotations

from itertools import islice

from benchmarks.heads_twice import COLUMNS, lines, measure, texts


def test_texts_are_different_and_have_every_label() -> None:
    made = list(islice(texts(0), 2000))
    assert len({text for text, *_ in made}) == len(made)
    assert {sentiment for _, sentiment, _ in made} == {"positive", "negative", "mixed", "neutral"}
    assert {kind for *_, kind in made} == {"praise", "complaint", "feedback"}


def test_the_second_head_finds_the_texts_embedded_and_is_quicker() -> None:
    (first, second), words = measure("minilm", rows=120, threads=1, seed=0)
    assert (first.column, second.column) == COLUMNS
    assert "120 texts embedded" in first.note and "0 texts embedded" in second.note
    assert first.stages["embedding"] > 0 and "embedding" not in second.stages
    assert second.worked < first.worked <= first.held
    assert 5 < words < 100
    assert "times less than the first" in "\n".join(lines((first, second), "minilm"))
