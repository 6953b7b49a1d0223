"""Reading, checking, digesting and splitting examples."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from rootstock_trainer.data import dataset_digest, read_examples, read_labelled, split
from rootstock_trainer.errors import BadData


def write(tmp_path: Path, name: str, text: str) -> Path:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return file


def chat(question: str, answer: str) -> str:
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
    return json.dumps({"messages": messages}) + "\n"


def test_csv_with_quotes_newlines_and_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    text = '\ufefftext,label,more\n"a, ""b""\nc",x,1\nplain,y,2\nd,x,\ne,y,\n'
    rows = read_labelled(write(tmp_path, "a.csv", text), "text", "label")
    assert rows[:2] == [('a, "b"\nc', "x"), ("plain", "y")]


def test_csv_and_jsonl_of_the_same_rows_have_the_same_digest(tmp_path: Path) -> None:
    rows = [("one\u2028line", "x"), ("two", "y"), ("three", "x"), ("four", "y")]
    table = "t,l\n" + "".join(f"{text},{label}\n" for text, label in rows)
    lines = "".join(
        json.dumps({"l": label, "t": text, "id": 7}, ensure_ascii=False) + "\n"
        for text, label in rows
    )
    from_table = read_labelled(write(tmp_path, "a.csv", table), "t", "l")
    from_lines = read_labelled(write(tmp_path, "a.jsonl", lines), "t", "l")
    assert dataset_digest(from_table) == dataset_digest(from_lines)
    assert dataset_digest(from_table) != dataset_digest(from_table[::-1])


def test_all_faults_of_a_file_are_named_at_once_with_their_lines(tmp_path: Path) -> None:
    text = "text,label\ngood,x\n,x\nfine,\nthree,fields,here\ngood too,y\n"
    with pytest.raises(BadData) as error:
        read_labelled(write(tmp_path, "a.csv", text), "text", "label")
    assert error.value.message.splitlines() == [
        "a.csv: 3 rows cannot be used",
        "  line 3: text is empty",
        "  line 4: label is empty",
        "  line 5: 3 fields, the header has 2",
    ]


def test_more_than_twenty_faults_are_counted_not_listed(tmp_path: Path) -> None:
    text = "text,label\n" + ",x\n" * 25
    with pytest.raises(BadData) as error:
        read_labelled(write(tmp_path, "a.csv", text), "text", "label")
    lines = error.value.message.splitlines()
    assert len(lines) == 22
    assert lines[20] == "  line 21: text is empty"
    assert lines[21] == "  and 5 more"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "words,label\na,b\n", "no column named 'text' (columns: words, label)"),
        ("a.csv", "", "no column named 'text'"),
        ("a.csv", "text,label\n", "has no rows"),
        ("a.csv", 'text,label\n"open,x\n', "line 2: unexpected end of data"),
        ("a.csv", "text,label,text\na,b,c\n", "two columns have the same name"),
        ("a.txt", "text,label\n", "must end in .csv or .jsonl"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": \n', "line 2: not JSON"),
        ("a.jsonl", "[1]\n", "line 1: not a JSON object"),
        ("a.jsonl", '{"text": 1.5, "label": "x"}\n', "line 1: text must be text"),
        ("a.jsonl", '{"label": "x"}\n', "line 1: text is missing"),
        ("a.csv", "text,label\na,x\nb,x\n", "one label only"),
        ("a.csv", "text,label\na,x\nb,x\nc,y\n", "label 'y' has 1 different text"),
        ("a.csv", "text,label\na,x\nb,x\nc,y\nc,y\n", "label 'y' has 1 different text"),
    ],
)
def test_unusable_labelled_file_says_what_is_wrong(
    tmp_path: Path, name: str, text: str, words: str
) -> None:
    with pytest.raises(BadData, match=re.escape(words)):
        read_labelled(write(tmp_path, name, text), "text", "label")


def test_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"text,label\nok,x\ncaf\xe9,y\n")
    with pytest.raises(BadData, match="line 3 is not UTF-8"):
        read_labelled(file, "text", "label")


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"there is no file .*nowhere\.csv"):
        read_labelled(tmp_path / "nowhere.csv", "text", "label")


def test_chat_and_completion_rows_are_read_side_by_side(tmp_path: Path) -> None:
    lines = chat("q", "a") + "".join(
        json.dumps({"prompt": f"p{i}", "completion": " c"}) + "\n" for i in range(4)
    )
    examples = read_examples(write(tmp_path, "a.jsonl", lines))
    assert [example.line for example in examples] == [1, 2, 3, 4, 5]
    assert len({example.row.question for example in examples}) == 5


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "a"}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
            "the last message must be the assistant's",
        ),
        (
            {"messages": [{"role": "robot", "content": "a"}] * 2},
            "messages.0.role",
        ),
        ({"messages": [{"role": "user", "content": ""}] * 2}, "messages.0.content"),
        ({"prompt": "a"}, "completion: Field required"),
        ({"prompt": "a", "completion": "b", "weight": 1}, "weight: Extra inputs"),
        ({"text": "a"}, "neither messages nor prompt and completion"),
    ],
)
def test_bad_decoder_row_is_named_with_its_line(
    tmp_path: Path, line: dict[str, object], words: str
) -> None:
    lines = chat("q", "a") + json.dumps(line) + "\n"
    with pytest.raises(BadData, match=r"line 2: ") as error:
        read_examples(write(tmp_path, "a.jsonl", lines))
    assert words in error.value.message


def test_too_few_different_prompts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="1 different prompts, at least 5"):
        read_examples(write(tmp_path, "a.jsonl", chat("q", "a") * 10))


def test_split_holds_out_a_fifth_of_each_label() -> None:
    texts = [f"t{i}" for i in range(100)]
    labels = ["rare" if i < 10 else "often" for i in range(100)]
    parts = split(texts, labels, seed=0)
    assert sorted(parts.train + parts.held_out) == list(range(100))
    assert Counter(labels[i] for i in parts.held_out) == {"rare": 2, "often": 18}


def test_split_is_the_seeds_and_not_the_row_orders() -> None:
    texts = [f"t{i}" for i in range(50)]
    once = {texts[i] for i in split(texts, None, seed=3).held_out}
    backwards = texts[::-1]
    again = {backwards[i] for i in split(backwards, None, seed=3).held_out}
    other = {texts[i] for i in split(texts, None, seed=4).held_out}
    assert once == again
    assert once != other


def test_identical_texts_stay_on_one_side_of_the_split() -> None:
    texts = [f"t{i % 20}" for i in range(100)]
    labels = ["x" if i % 3 else "y" for i in range(100)]  # the same text under both labels
    for seed in range(5):
        parts = split(texts, labels, seed)
        assert not {texts[i] for i in parts.train} & {texts[i] for i in parts.held_out}
