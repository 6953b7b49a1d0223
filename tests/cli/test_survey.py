"""The demo's hand-written survey set keeps the promises of its SURVEY.md.

Knows nothing of models: how well the labels can be learned is measured elsewhere.
"""

import csv
import difflib
from collections import Counter
from importlib.resources import files
from itertools import combinations

import pytest

COLUMNS = ["text", "sentiment", "type"]
LABELS = {
    "sentiment": {"positive", "neutral", "negative"},
    "type": {"feedback", "complaint", "praise"},
}
USUAL_PAIRS = {("positive", "praise"), ("neutral", "feedback"), ("negative", "complaint")}


@pytest.fixture(scope="module")
def table() -> list[list[str]]:
    source = files("rootstock_cli") / "demo" / "survey.csv"
    with source.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


@pytest.fixture(scope="module")
def rows(table: list[list[str]]) -> list[dict[str, str]]:
    return [dict(zip(table[0], row, strict=True)) for row in table[1:]]


def words(text: str) -> list[str]:
    """Lower-case words of `text`, without the punctuation around them."""
    return [word for word in (part.strip(".,;:!?\"'()") for part in text.lower().split()) if word]


def test_has_three_columns_and_at_least_300_full_rows(table: list[list[str]]) -> None:
    assert table[0] == COLUMNS
    assert len(table) - 1 >= 300
    assert [row for row in table[1:] if len(row) != 3 or any(c != c.strip() for c in row)] == []


@pytest.mark.parametrize("task", LABELS)
def test_every_label_has_at_least_a_quarter_of_the_rows(
    rows: list[dict[str, str]], task: str
) -> None:
    counts = Counter(row[task] for row in rows)
    assert set(counts) == LABELS[task]
    assert min(counts.values()) >= len(rows) / 4


def test_one_label_does_not_give_away_the_other(rows: list[dict[str, str]]) -> None:
    pairs = Counter((row["sentiment"], row["type"]) for row in rows)
    unusual = sum(count for pair, count in pairs.items() if pair not in USUAL_PAIRS)
    assert unusual >= 0.35 * len(rows)
    assert len(pairs) == 9


def test_texts_vary_in_length_from_three_words_up(rows: list[dict[str, str]]) -> None:
    lengths = [len(words(row["text"])) for row in rows]
    assert min(lengths) == 3
    assert sum(length <= 6 for length in lengths) >= 10
    assert sum(length >= 25 for length in lengths) >= 10


def test_no_two_texts_open_with_the_same_four_words(rows: list[dict[str, str]]) -> None:
    openings = Counter(tuple(words(row["text"])[:4]) for row in rows)
    assert [opening for opening, count in openings.items() if count > 1] == []


def test_no_text_is_a_near_copy_of_another(rows: list[dict[str, str]]) -> None:
    bags = [(row["text"], words(row["text"])) for row in rows]
    alike = [
        (a, b)
        for (a, left), (b, right) in combinations(bags, 2)
        if len(set(left) & set(right)) >= 0.5 * min(len(set(left)), len(set(right)))
        and difflib.SequenceMatcher(None, left, right).ratio() > 0.6
    ]
    assert alike == []
