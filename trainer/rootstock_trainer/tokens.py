"""Examples as token ids, marked where the answer is: only the answer is learnt.

Refuses to know the model. Prompts are tokenised as the server does it, apart from the answer, so
that training sees the ids that serving will see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jinja2 import TemplateError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rootstock_trainer.data import Chat, Completion, Example
from rootstock_trainer.errors import BadData, BadSpec
from rootstock_trainer.records import Faults

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # torch's cross_entropy leaves out targets of this value


class TokenRow(NamedTuple):
    ids: list[int]
    targets: list[int]  # the same ids where the answer is, IGNORED elsewhere


class TokenBatch(NamedTuple):
    ids: Tensor  # [B, L] int64, right-padded
    mask: Tensor  # [B, L] int64
    targets: Tensor  # [B, L] int64


def tokenize(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, context: int, file: Path
) -> list[TokenRow]:
    """One row of ids per example. Raises BadData naming every row that does not fit `context`
    tokens or the chat template, BadSpec where chats meet a base without a template."""
    if any(isinstance(example.row, Chat) for example in examples) and not tokenizer.chat_template:
        raise BadSpec(
            "base: it has no chat template, so it cannot learn from messages: "
            "use rows with prompt and completion"
        )
    faults = Faults(file)
    rows = []
    for line, row in examples:
        try:
            tokens = _chat(row, tokenizer) if isinstance(row, Chat) else _plain(row, tokenizer)
        except (TemplateError, BadData) as error:
            faults.add(line, f"the base's chat template refuses it: {error}")
            continue
        if len(tokens.ids) > context:
            faults.add(line, f"{len(tokens.ids)} tokens, the base's context has {context}")
        rows.append(tokens)
    faults.check()
    return rows


def collate(rows: Sequence[TokenRow]) -> TokenBatch:
    ids = [torch.tensor(row.ids) for row in rows]
    targets = [torch.tensor(row.targets) for row in rows]
    return TokenBatch(
        pad_sequence(ids, batch_first=True),
        pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        pad_sequence(targets, batch_first=True, padding_value=IGNORED),
    )


def _plain(row: Completion, tokenizer: PreTrainedTokenizerBase) -> TokenRow:
    prompt = tokenizer(row.prompt)["input_ids"]
    answer = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
    if tokenizer.eos_token_id is not None:
        answer = [*answer, tokenizer.eos_token_id]
    return TokenRow(prompt + answer, [IGNORED] * len(prompt) + answer)


def _chat(row: Chat, tokenizer: PreTrainedTokenizerBase) -> TokenRow:
    ids: list[int] = []
    targets: list[int] = []
    for text, is_answer in _segments(row, tokenizer):
        # The template writes the special tokens itself.
        segment = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += segment
        targets += segment if is_answer else [IGNORED] * len(segment)
    return TokenRow(ids, targets)


def _segments(row: Chat, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, bool]]:
    """The rendered conversation in pieces: (text, whether the assistant says it)."""
    messages = [message.model_dump() for message in row.messages]

    def render(count: int, prompt: bool = False) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages[:count], tokenize=False, add_generation_prompt=prompt
            )
        )

    whole, written = render(len(messages)), 0
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        question, answered = render(turn, prompt=True), render(turn + 1)
        if not (whole.startswith(answered) and answered.startswith(question)):
            raise BadData("it rewrites earlier turns; give each answer a row of its own")
        yield whole[written : len(question)], False
        yield whole[len(question) : len(answered)], True
        written = len(answered)
