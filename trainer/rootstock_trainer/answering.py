"""Greedy answers of a model to prompts that it was not trained on, so that they can be compared.

Refuses to know which method made the model, and what the answers will be measured with.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

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
    prompt: list[int]  # token ids up to where the answer begins; of an encoder-decoder, the source
    wanted: list[int]  # token ids of the answer, its end token included
    begun: Sequence[int] = ()  # what an encoder-decoder's decoder begins with


def question(row: TokenRow) -> Question:
    """The last answer of a tokenised row, and everything before it."""
    end = len(row.targets)
    while end and row.targets[end - 1] == IGNORED:
        end -= 1
    start = end
    while start and row.targets[start - 1] != IGNORED:
        start -= 1
    if row.source:
        return Question(list(row.source), row.ids[start:end], row.ids[:start])
    return Question(row.ids[:start], row.ids[start:end])


def answer_figures(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    context: int,
    virtual: int = 0,
) -> dict[str, float]:
    """`text_figures` of greedy answers to at most MAX_ANSWERS questions, evenly spread over all.

    `model` is any causal or text-to-text model with transformers' `generate`, adapters included;
    `virtual` tokens stand before a row's own in it. A prompt that leaves no room in `context` is
    left out. Empty where no question remains.
    """
    room = context - virtual
    fitting = [q for q in questions if q.prompt and (q.begun or len(q.prompt) < room)]
    asked = _spread(fitting, MAX_ANSWERS)
    if not asked:
        return {}
    given = answers(model, tokenizer, asked, context, virtual)
    wanted = tokenizer.batch_decode([q.wanted for q in asked], skip_special_tokens=True)
    return {**text_figures(given, wanted), "answered_rows": float(len(asked))}


@torch.inference_mode()
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    context: int,
    virtual: int = 0,
) -> list[str]:
    """The greedy answer to each question as text, in their order, special tokens left out."""
    context -= virtual
    longest = max(len(q.wanted) for q in questions) + ROOM_PAST_WANTED
    encodes = bool(questions[0].begun)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    texts = [""] * len(questions)
    limit = None if encodes else context
    # Behind virtual tokens PEFT counts the padding before a prompt as positions.
    for batch in _batches(questions, limit, longest, same_length=virtual > 0):
        width = max(len(questions[i].prompt) for i in batch)
        room = longest if encodes else min(longest, context - width)
        made = _generate(
            model,
            **_side_by_side([questions[i] for i in batch], width, pad),
            max_new_tokens=max(1, min(room, MAX_NEW_TOKENS)),
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
        )
        begin = len(questions[batch[0]].begun) if encodes else width
        said = tokenizer.batch_decode(made[:, begin:], skip_special_tokens=True)
        for place, text in zip(batch, said, strict=True):
            texts[place] = text
    return texts


def _generate(model: PreTrainedModel, **arguments: Any) -> Tensor:
    """Greedy ids, [B, L]: of a decoder behind the prompt's."""
    with warnings.catch_warnings():
        # PEFT says so of every model with virtual tokens; nothing here depends on them.
        warnings.filterwarnings("ignore", "Position ids are not supported")
        made: Tensor = model.generate(**arguments, max_length=None, do_sample=False, num_beams=1)
    return made


def _side_by_side(questions: Sequence[Question], width: int, pad: int) -> dict[str, Tensor]:
    """A decoder goes on behind its prompts, so they are padded at the left; a source is read from
    its first position, so it is padded at the right."""
    encodes = bool(questions[0].begun)
    ids, mask = [], []
    for asked in questions:
        gap = width - len(asked.prompt)
        empty, ones = [pad] * gap, [1] * len(asked.prompt)
        ids.append([*asked.prompt, *empty] if encodes else [*empty, *asked.prompt])
        mask.append([*ones, *[0] * gap] if encodes else [*[0] * gap, *ones])
    found = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    if encodes:  # of one base, so of the same length in every row
        found["decoder_input_ids"] = torch.tensor([list(asked.begun) for asked in questions])
    return found


def _batches(
    questions: Sequence[Question], context: int | None, longest: int, same_length: bool
) -> list[list[int]]:
    """Indices that are answered together; a prompt that leaves less than the full room is alone,
    because its neighbours would have to stop when it must."""
    ends = [len(q.prompt) + longest for q in questions]
    alone = [[i] for i, end in enumerate(ends) if context is not None and end > context]
    others = [i for i, end in enumerate(ends) if context is None or end <= context]
    groups = [others]
    if same_length:
        groups = [[i for i in others if ends[i] == end] for end in sorted(set(ends))]
    together = [
        [group[i] for i in batch]
        for group in groups
        for batch in by_length([ends[i] for i in group], BATCH_TOKENS)
    ]
    return together + alone


def _spread(questions: Sequence[Question], count: int) -> list[Question]:
    """At most `count` of them, at equal distances: a file may be sorted."""
    if len(questions) <= count:
        return list(questions)
    return [questions[i * len(questions) // count] for i in range(count)]
