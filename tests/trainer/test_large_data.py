"""Files of any size and kind: streamed, bounded in memory, the same rows whatever they lie in."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rootstock_trainer.batches import shuffled
from rootstock_trainer.data import Columns, Dataset, open_rows, read_examples, read_labelled
from rootstock_trainer.errors import BadData
from rootstock_trainer.spec import TrainSpec
from rootstock_trainer.tokens import TokenRow, TokenStore

SPEC = {"method": "lora", "base": "b", "base_path": "/b", "name": "n"}


def chats(count: int) -> list[dict[str, object]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"question {number} {'words ' * 20}"},
                {"role": "assistant", "content": f"answer {number}", "weight": 1},
            ]
        }
        for number in range(count)
    ]


def write_lines(file: Path, rows: list[dict[str, object]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_checking_and_splitting_hold_a_few_bytes_a_row(tmp_path: Path) -> None:
    """Four times the rows, 32 kB of text each hundred: the peak grows by less than 100 bytes a
    row, of which the file has 300."""

    def measured(count: int) -> int:
        file = write_lines(tmp_path / f"{count}.jsonl", chats(count))
        return peak(lambda: open_rows(TrainSpec.parse(SPEC | {"data": str(file)})))

    measured(200)  # imports and caches
    few, many = measured(2_000), measured(8_000)
    assert (many - few) / 6_000 < 100


def test_tokens_lie_on_disk(tmp_path: Path) -> None:
    def rows():
        return (TokenRow([number % 100] * 300, [number % 7] * 300, [1]) for number in range(3_000))

    store = TokenStore(rows(), tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []  # the file has no name
    assert store[2_999] == TokenRow([99] * 300, [3] * 300, [1])
    assert len(store) == 3_000
    assert store.lengths.tolist() == [301] * 3_000
    assert peak(lambda: TokenStore(rows(), tmp_path)) < 3_000 * 100  # of 2,404 bytes a row


def test_one_epoch_of_batches_is_in_memory() -> None:
    lengths = [number % 40 + 1 for number in range(4_000)]
    one, twenty = (peak(lambda e=e: list(map(len, shuffled(lengths, 8, e, 0)))) for e in (1, 20))
    assert twenty < 1.5 * one
    plan = shuffled(lengths, 8, 3, 0)
    assert plan[1_400] == list(shuffled(lengths, 8, 3, 0))[1_400]


def test_parquet_rows_are_those_of_jsonl(tmp_path: Path) -> None:
    rows = chats(600)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=100)
    lines = write_lines(tmp_path / "a.jsonl", rows)
    assert read_examples(tmp_path / "a.parquet") == read_examples(lines)
    texts = [{"text": f"t{n}", "label": "ab"[n % 2], "other": n} for n in range(20)]
    pq.write_table(pa.Table.from_pylist(texts), tmp_path / "b.parquet")
    found = read_labelled(tmp_path / "b.parquet", "text", "label")
    assert found == [(f"t{n}", "ab"[n % 2]) for n in range(20)]


def test_faults_of_parquet_name_rows_and_damage_is_said(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": "x"}, {"text": "", "label": "x"}, {"text": "c", "label": None}]
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(BadData, match=r"row 2: text is empty\n  row 3: label is missing"):
        read_labelled(file, "text", "label")
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(BadData, match="cannot be read as Parquet"):
        read_labelled(file, "text", "label")


def test_a_file_where_every_row_is_wrong_keeps_twenty_faults(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "a.jsonl", [{"prompt": ""}] * 5_000)
    with pytest.raises(BadData) as error:
        read_examples(file)
    assert error.value.message.splitlines()[0] == "a.jsonl: 5000 rows cannot be used"
    assert error.value.message.splitlines()[-1] == "  and 4980 more"
    assert len(error.value.message.splitlines()) == 22


def test_repeated_questions_stay_on_one_side_and_are_told(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{n % 40}", "completion": f"c{n}"} for n in range(100)]
    file = write_lines(tmp_path / "a.jsonl", rows)
    found = open_rows(TrainSpec.parse(SPEC | {"data": str(file)}))
    keys = found.data.keys
    assert not set(keys[found.train]) & set(keys[found.held_out])
    assert "60 of 100 rows ask what another row asks" in found.notes[0]


def test_every_label_of_every_column_is_trained_on(tmp_path: Path) -> None:
    rows = [
        {"text": f"t{n}", "a": "xy"[n % 2], "b": f"rare{n // 2}" if n < 12 else "often"}
        for n in range(60)
    ]
    file = write_lines(tmp_path / "a.jsonl", rows)
    columns = {"method": "head", "hyperparameters": {"label_columns": ["a", "b"]}}
    for seed in range(8):
        spec = TrainSpec.parse(SPEC | columns | {"data": str(file), "seed": seed})
        found = open_rows(spec)
        trained = found.data.targets[found.train]
        for number, labels in enumerate(found.data.labels):
            assert set(trained[:, number]) == set(range(len(labels)))
        assert sorted([*found.train, *found.held_out]) == list(range(60))


def test_labels_are_numbered_by_name_whatever_comes_first(tmp_path: Path) -> None:
    lines = [{"text": f"t{n}", "label": "zyx"[n % 3]} for n in range(9)]
    file = write_lines(tmp_path / "a.jsonl", lines)
    dataset = Dataset.read(file, "classify", Columns())
    assert dataset.labels == (("x", "y", "z"),)
    assert np.array_equal(dataset.targets[:, 0], [2, 1, 0] * 3)
