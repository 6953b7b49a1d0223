"""Greedy answers: which part of a row is asked, and that rows answered together are as alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_trainer.answering import MAX_ANSWERS, Question, answer_figures, answers, question
from rootstock_trainer.base import Base
from rootstock_trainer.tokens import IGNORED, TokenRow


@pytest.fixture(scope="module")
def base(decoder_folder: Path) -> Base:
    return Base(BaseCard.read(decoder_folder, "tiny-decoder"), decoder_folder)


def test_the_question_is_all_before_the_last_answer() -> None:
    row = TokenRow([1, 2, 3, 4, 5, 6], [IGNORED, 2, IGNORED, IGNORED, 5, 6])
    assert question(row) == Question([1, 2, 3, 4], [5, 6])
    cut = TokenRow([1, 2, 3], [IGNORED, 2, IGNORED])
    assert question(cut) == Question([1], [2])


@torch.inference_mode()
def test_answers_together_are_the_answers_alone_and_plain_greedy_ones(base: Base) -> None:
    model, tokenizer = base.decoder(), base.tokenizer()
    prompts = [[0, 20, 21], [0, 30, 31, 32, 33, 34, 35, 36], [0, 9], [0, *range(40, 60)]]
    asked = [Question(prompt, [7, 8, 1]) for prompt in prompts]
    together = answers(model, tokenizer, asked, context=64)
    assert together == [answers(model, tokenizer, [each], context=64)[0] for each in asked]
    ids = prompts[0]
    for _ in range(3 + 16):
        ids = [*ids, int(model(torch.tensor([ids])).logits[0, -1].argmax())]
        if ids[-1] == tokenizer.eos_token_id:
            break
    assert together[0] == tokenizer.decode(ids[len(prompts[0]) :], skip_special_tokens=True)


def test_a_prompt_near_the_end_of_the_context_is_answered_as_far_as_it_goes(base: Base) -> None:
    asked = [Question([0] + [25] * 61, [7, 1]), Question([0, 9], [7, 1])]
    model, tokenizer = base.decoder(), base.tokenizer()
    long, short = answers(model, tokenizer, asked, context=64)
    assert short == answers(model, tokenizer, asked[1:], context=64)[0]
    assert len(tokenizer(long, add_special_tokens=False)["input_ids"]) <= 4


def test_figures_count_what_was_answered_and_nothing_unanswerable(base: Base) -> None:
    model, tokenizer = base.decoder(), base.tokenizer()
    few = [Question([0, 9], [7, 1]), Question([0] * 64, [7, 1])]
    figures = answer_figures(model, tokenizer, few, context=64)
    assert figures["answered_rows"] == 1
    assert set(figures) == {"exact_match", "token_f1", "chrf", "bleu", "answered_rows"}
    many = [Question([0, 9 + i % 7], [7, 1]) for i in range(MAX_ANSWERS + 9)]
    assert answer_figures(model, tokenizer, many, context=64)["answered_rows"] == MAX_ANSWERS
    assert answer_figures(model, tokenizer, few[1:], context=64) == {}
