"""The invented shop's documents: fixed by a seed, varied, coherent, and usable as chats."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

from rootstock_cli.demo.catalogue import PROBLEMS, PRODUCTS
from rootstock_cli.demo.world import Row, cheerful_replies, documents, formal_replies


def _rows(seed: int, count: int) -> list[Row]:
    return list(itertools.islice(documents(seed), count))


def _texts(row: Row) -> list[str]:
    return [row["text"]] if "text" in row else [turn["content"] for turn in row["messages"]]


def _ask_and_answer(row: Row) -> tuple[str, str]:
    user, assistant = row["messages"]
    assert (user["role"], assistant["role"]) == ("user", "assistant")
    return user["content"], assistant["content"]


def test_the_same_seed_writes_the_same_world_and_another_seed_another() -> None:
    assert _rows(3, 300) == _rows(3, 300)
    assert _rows(3, 300) != _rows(4, 300)


def test_long_sentences_and_whole_documents_rarely_repeat() -> None:
    rows = _rows(7, 1000)
    distinct_rows = {json.dumps(row) for row in rows}
    sentences = [
        sentence
        for row in rows
        for text in _texts(row)
        for sentence in re.split(r"(?<=[.?!:])\s+|\n", text)
        if len(sentence.split()) >= 8
    ]
    assert len(distinct_rows) / len(rows) > 0.97
    assert len(sentences) > 1500
    assert len(set(sentences)) / len(sentences) > 0.85


def test_no_template_mark_or_empty_turn_is_left_in_the_text() -> None:
    for row in _rows(11, 2000):
        for text in _texts(row):
            assert text.strip() == text and text
            assert not re.search(r"[\[\]{}|]|  | [.,?!]", text), text


def test_chats_alternate_user_and_assistant_after_an_optional_system_turn() -> None:
    for row in _rows(5, 500):
        roles = [turn["role"] for turn in row.get("messages", [])]
        if roles[:1] == ["system"]:
            roles = roles[1:]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_every_kind_of_product_has_problems_of_its_own() -> None:
    kinds = {product.kind for product in PRODUCTS}
    assert kinds == set(PROBLEMS) - {"any"}
    assert len({product.name for product in PRODUCTS}) == len(PRODUCTS)


def test_a_plain_ticket_its_reply_and_its_summary_tell_of_one_problem() -> None:
    tickets = [row["text"] for row in _rows(2, 1500) if row.get("text", "").startswith("Ticket")]
    assert len(tickets) > 50
    symptoms = [problem.symptom for table in PROBLEMS.values() for problem in table]
    for ticket in tickets:
        message, _, rest = ticket.partition("\nReply: ")
        reply, _, summary = rest.partition("\nSummary: ")
        told = [symptom for symptom in symptoms if symptom in reply]
        assert told and all(symptom in summary for symptom in told)
        assert all(symptom.lower() in message.lower() for symptom in told)


def test_the_two_registers_answer_the_same_customers_visibly_differently() -> None:
    formal = [_ask_and_answer(row) for row in formal_replies(50, 1)]
    cheerful = [_ask_and_answer(row) for row in cheerful_replies(50, 1)]
    assert len(formal) == len(cheerful) == 50
    for _, answer in formal:
        assert answer.startswith("Reference: ") and "Yours faithfully" in answer
        assert "!" not in answer
    for _, answer in cheerful:
        assert answer.endswith("Onwards and upwards!") and answer.count("!") >= 4
        assert answer.isascii()


def test_the_better_formal_version_adds_order_number_and_deadline_to_the_same_messages() -> None:
    plain = [_ask_and_answer(row) for row in formal_replies(60, 1)]
    better = [_ask_and_answer(row) for row in formal_replies(60, 1, with_reference=True)]
    assert plain[0][0] == better[0][0]
    assert all("working days" in answer for _, answer in better)
    assert not any("working days" in answer or "order " in answer for _, answer in plain)
    named = [(ask, re.match(r"Reference: order (\d{5})", answer)) for ask, answer in better]
    assert sum(match is not None for _, match in named) > 30
    assert all(match[1] in ask for ask, match in named if match)


def test_the_command_writes_jsonl_rows(tmp_path: Path) -> None:
    out = tmp_path / "world.jsonl"
    options = ["--documents", "25", "--seed", "9", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "rootstock_cli.demo.world", *options], check=True)
    assert [json.loads(line) for line in out.read_text().splitlines()] == _rows(9, 25)
