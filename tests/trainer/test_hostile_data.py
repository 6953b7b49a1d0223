"""Files of examples as strangers send them: trained on as they say, or refused by the line."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rootstock_trainer.data import open_rows
from rootstock_trainer.errors import BadData, BadSpec, TrainerError
from rootstock_trainer.spec import TrainSpec
from rootstock_wire.fine_tuning import MAX_RECORD_CHARS

HEAD = {"method": "head", "base": "b", "base_path": "/b", "name": "n"}
LORA = HEAD | {"method": "lora"}
LABELLED = [{"text": f"t{n}", "label": "ab"[n % 2]} for n in range(8)]
PROMPTS = [{"prompt": f"p{n}", "completion": "c"} for n in range(8)]
MANY = ",".join(f"column-{n}-{'x' * 50}" for n in range(1000))


def lines(rows: list[dict[str, Any]], more: str = "", end: str = "\n") -> bytes:
    return ("".join(json.dumps(row) + end for row in rows) + more).encode()


def refused(tmp_path: Path, name: str, data: bytes, spec: dict[str, Any] = HEAD) -> str:
    (tmp_path / name).write_bytes(data)
    with pytest.raises((BadData, BadSpec)) as error:
        opened(tmp_path / name, spec)
    assert len(error.value.message) < 8000
    assert all(line.isprintable() for line in error.value.message.split("\n"))
    return error.value.message


def opened(file: Path, spec: dict[str, Any] = HEAD):
    return open_rows(TrainSpec.parse(spec | {"data": str(file)}))


WRONG = {
    "a text of half a surrogate": ('{"text": "\\ud800", "label": "a"}', "text must be text"),
    "a label of half one": ('{"text": "x", "label": "\\udfff"}', "line 9: label must be text"),
    "a label that is no number": ('{"text": "x", "label": NaN}', "line 9: label must be text"),
    "an infinite label": ('{"text": "x", "label": 1e999}', "line 9: label must be text"),
    "a label of a truth": ('{"text": "x", "label": true}', "line 9: label must be text"),
    "5,000 digits": ('{"text": ' + "9" * 5000 + ', "label": "a"}', "line 9: not JSON"),
    "10,000 deep": ('{"text": ' + "[" * 10_000 + "]" * 10_000 + "}", "line 9: not JSON"),
    "tables 100,000 deep": ('{"a":' * 100_000, "line 9: not JSON"),
    "a label of 129 letters": ('{"text": "x", "label": "' + "l" * 129 + '"}', "over 128"),
    "two objects on a line": ('{"text": "x", "label": "a"}' * 2, "line 9: not JSON"),
    "Python": ("{'text': 'x', 'label': 'a'}", "line 9: not JSON"),
    "a NUL": ('{"text": "x", "label": "a"}\0', "line 9: not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_row_that_cannot_be_read_is_refused_by_its_line(tmp_path: Path, what: str) -> None:
    line, words = WRONG[what]
    assert words in refused(tmp_path, "a.jsonl", lines(LABELLED, line))


TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
EXAMPLES = {
    "a prompt of half a surrogate": ({"prompt": "\ud800", "completion": "c"}, "line 9: prompt"),
    "a field of half one": ({"prompt": "p", "completion": "c", "\ud800": 1}, "line 9: "),
    "a field with a line break": ({"prompt": "p", "completion": "c", "a\nb": 1}, r"line 9: a\nb"),
    "a field of a megabyte": ({"prompt": "p", "completion": "c", "x" * 10**6: 1}, "line 9: xxx"),
    "a hundred thousand messages": ({"messages": [{}] * 100_000}, "line 9: messages"),
    "one message too many": ({"messages": TURNS * 513}, "at most 1024"),
}  # fmt: skip


@pytest.mark.parametrize("what", EXAMPLES)
def test_an_example_that_cannot_be_one_is_refused_by_its_line(tmp_path: Path, what: str) -> None:
    row, words = EXAMPLES[what]
    assert words in refused(tmp_path, "a.jsonl", lines(PROMPTS, json.dumps(row)), LORA)


FILES: dict[str, tuple[str, bytes, str]] = {
    "empty": ("a.jsonl", b"", "has no rows"),
    "only line ends": ("a.jsonl", b"\n\r\n\n", "has no rows"),
    "only a byte order mark": ("a.csv", b"\xef\xbb\xbf", "has no rows"),
    "UTF-16": ("a.jsonl", lines(LABELLED).decode().encode("utf-16"), "line 1 is not UTF-8"),
    "cut within a character": ("a.jsonl", lines(LABELLED) + b"\xe2\x82", "line 9 is not UTF-8"),
    "Latin-1 far behind": (
        "a.csv", b"text,label\n" + b"x,a\n" * 40_000 + b"caf\xe9,a\n", "line 40002 is not UTF-8"
    ),
    "a thousand columns": ("a.csv", MANY.encode() + b"\n1" + b",1" * 999, "and 980 more"),
    "a thousand of them twice": ("a.csv", f"text,label,{MANY},{MANY}\n1\n".encode(), "same name"),
    "a thousand fields": ("a.jsonl", lines([dict.fromkeys(MANY.split(","), 1)]), "and 980 more"),
    "a colour in a column": ("a.csv", b"\x1b[31mred\n1\n", r"\x1b[31mred"),
    "one label": ("a.jsonl", lines([row | {"label": "a"} for row in LABELLED]), "one label"),
    "a line without an end": ("a.jsonl", b"x" * (MAX_RECORD_CHARS + 1), "line 1: a row is over"),
    "a wide line without an end": (
        "a.csv", b"text,label\n" + "\U0001f600".encode() * (MAX_RECORD_CHARS + 1), "line 2: a row"
    ),
    "a quote that is open over all lines": (
        "a.csv", b"text,label\n" + b'"x\n",' * (MAX_RECORD_CHARS // 3), "a row is over"
    ),
    "a field over csv's own limit": ("a.csv", b"text,label\n" + b"x" * 200_000 + b",a\n", "field"),
    "no Parquet": ("a.parquet", b"PAR1" + bytes(99) + b"PAR1", "cannot be read as Parquet"),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_cannot_be_trained_on_is_refused_in_words(tmp_path: Path, what: str) -> None:
    name, data, words = FILES[what]
    assert words in refused(tmp_path, name, data)


def arrow(name: str, values: pa.Array) -> pa.Table:
    table = pa.table({"text": [f"t{n}" for n in range(8)], "label": list("ab" * 4)})
    column = pa.concat_arrays([values] * 8)
    return table.drop_columns([name] if name in table.column_names else []).append_column(
        name, column
    )


NO_TEXT = pa.StringArray.from_buffers(
    1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")
)
PARQUET = {
    "a text that is not UTF-8": arrow("text", NO_TEXT),
    "a day after the year 9999": arrow("when", pa.array([2**62], pa.timestamp("us"))),
    "a place that no clock knows": arrow("when", pa.array([0], pa.timestamp("us", "No/Where"))),
}  # fmt: skip


@pytest.mark.parametrize("what", PARQUET)
def test_a_value_without_a_form_here_is_no_parquet_for_us(tmp_path: Path, what: str) -> None:
    pq.write_table(PARQUET[what], tmp_path / "made.parquet")
    data = (tmp_path / "made.parquet").read_bytes()
    assert "cannot be read as Parquet" in refused(tmp_path, "a.parquet", data)


TEXTS = {
    "formulas": ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x","y")', "=cmd|'/c calc'!A0"],
    "paths": ["/etc/passwd", "../../x", "file:///etc/passwd", "C:\\x", "~/.ssh/id_rsa", "$(id)"],
    "addresses": ["http://169.254.169.254/", "s3://bucket/x", "\\\\host\\share"],
    "marks": ["\u202eabc", "\u200b", "a\u2028b", "e\u0301", "\U0001f600", "\x7f", "<|endoftext|>"],
}  # fmt: skip


@pytest.mark.parametrize("what", TEXTS)
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_whatever_a_text_looks_like_it_is_a_text(tmp_path: Path, what: str, suffix: str) -> None:
    """Nothing is opened, fetched or computed: what comes out is what stands there."""
    rows = [{"text": text, "label": "ab"[n % 2]} for n, text in enumerate(TEXTS[what] + ["x", "y"])]
    file = tmp_path / f"a{suffix}"
    if suffix == ".csv":
        cells = [(row["text"].replace('"', '""'), row["label"]) for row in rows]
        file.write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in cells))
    else:
        file.write_bytes(lines(rows))
    found = opened(file).data.rows()
    assert [row.text for row in found] == [row["text"] for row in rows]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_a_byte_order_mark_change_no_digest(
    tmp_path: Path, end: str, mark: str
) -> None:
    plain, other = tmp_path / "plain.jsonl", tmp_path / "other.jsonl"
    plain.write_bytes(lines(LABELLED))
    other.write_bytes(mark.encode() + lines(LABELLED, end=end))
    assert opened(other).data.digest == opened(plain).data.digest


def test_ids_that_come_twice_mean_nothing(tmp_path: Path) -> None:
    rows = [row | {"id": 7} for row in LABELLED]
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    assert len(opened(tmp_path / "a.jsonl").data.keys) == len(rows)


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(TrainerError):
            work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_line_of_a_hundred_megabytes_is_not_read_to_its_end(tmp_path: Path) -> None:
    """Zeros that take no disk."""
    for name in ("a.jsonl", "a.csv"):
        with (tmp_path / name).open("wb") as file:
            file.write(b"text,label\n")
            file.truncate(100 << 20)
        assert peak(lambda name=name: opened(tmp_path / name)) < 40 << 20
