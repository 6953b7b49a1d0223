"""Greedy answers of a model to prompts that it was not trained on, so that they can be compared.

Refuses to know which method made the model, and what the answers will be measured with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from rootstock_trainer.batches import by_length
from rootstock_trainer.evaluate import text_figures
from rootstock_trainer.tokens import IGNORED, TokenRow

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Decoding is the slow part of an evaluation: so many held-out prompts are answered at most, and
# the figure `answered_rows` says how many were.
MAX_ANSWERS = 64
MAX_NEW_TOKENS = 256
# An answer may run past the longest wanted one: cutting it there would hide that it does not stop.
ROOM_PAST_WANTED = 16
BATCH_TOKENS = 4096


class Question(NamedTuple):
    prompt: list[int]  # token ids up to where the answer begins
    wanted: list[int]  # token ids of the answer, its end token included


def question(row: TokenRow) -> Question:
    """The last answer of a tokenised row, and everything before it."""
    end = len(row.targets)
    while end and row.targets[end - 1] == IGNORED:
        end -= 1
    start = end
    while start and row.targets[start - 1] != IGNORED:
        start -= 1
    return Question(row.ids[:start], row.ids[start:end])


def answer_figures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    context: int,
) -> dict[str, float]:
    """`text_figures` of greedy answers to at most MAX_ANSWERS questions, evenly spread over all.

    `model` is any causal or text-to-text model with transformers' `generate`, adapters included;
    it is asked with the prompts left-padded. A prompt that leaves no room in `context` is left
    out. Empty where no question remains.
    """
    encodes = bool(getattr(model.config, "is_encoder_decoder", False))
    fitting = [q for q in questions if q.prompt and (encodes or len(q.prompt) < context)]
    asked = _spread(fitting, MAX_ANSWERS)
    if not asked:
        return {}
    given = answers(model, tokenizer, asked, context)
    wanted = tokenizer.batch_decode([q.wanted for q in asked], skip_special_tokens=True)
    return {**text_figures(given, wanted), "answered_rows": float(len(asked))}


@torch.inference_mode()
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    context: int,
) -> list[str]:
    """The greedy answer to each question as text, in their order, special tokens left out."""
    longest = max(len(q.wanted) for q in questions) + ROOM_PAST_WANTED
    encodes = bool(getattr(model.config, "is_encoder_decoder", False))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    texts = [""] * len(questions)
    for batch in _batches(questions, context if not encodes else None, longest):
        prompts = [questions[i].prompt for i in batch]
        width = max(map(len, prompts))
        room = longest if encodes else min(longest, context - width)
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in prompts])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in prompts])
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(1, min(room, MAX_NEW_TOKENS)),
            max_length=None,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
        )
        begin = 0 if encodes else width
        said = tokenizer.batch_decode(made[:, begin:], skip_special_tokens=True)
        for place, text in zip(batch, said, strict=True):
            texts[place] = text
    return texts


def _batches(questions: Sequence[Question], context: int | None, longest: int) -> list[list[int]]:
    """Indices that are answered together; a prompt that leaves less than the full room is alone,
    because its neighbours would have to stop when it must."""
    ends = [len(q.prompt) + longest for q in questions]
    alone = [[i] for i, end in enumerate(ends) if context is not None and end > context]
    others = [i for i, end in enumerate(ends) if context is None or end <= context]
    together = by_length([ends[i] for i in others], BATCH_TOKENS)
    return [[others[i] for i in batch] for batch in together] + alone


def _spread(questions: Sequence[Question], count: int) -> list[Question]:
    """At most `count` of them, at equal distances: a file may be sorted."""
    if len(questions) <= count:
        return list(questions)
    return [questions[i * len(questions) // count] for i in range(count)]
