"""Token rows: the prompt as the server sends it, the answer and nothing else to be learnt."""

from __future__ import annotations

from pathlib import Path

import pytest
from rootstock_trainer.batches import by_length, shuffled
from rootstock_trainer.data import Chat, Completion, Example, Message
from rootstock_trainer.errors import BadData, BadSpec
from rootstock_trainer.tokens import IGNORED, collate, tokenize
from transformers import AutoTokenizer, PreTrainedTokenizerBase

FILE = Path("rows.jsonl")


@pytest.fixture
def tokenizer(decoder_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(decoder_folder)


def chat(*turns: str) -> Chat:
    roles = ("user", "assistant")
    messages = [Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)]
    return Chat(messages=messages)


def learnt(targets: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return str(tokenizer.decode([token for token in targets if token != IGNORED]))


def test_completion_row_is_the_tokenised_prompt_then_the_answer_and_the_end(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    row = Completion(prompt="the lamp is", completion=" bright")
    (tokens,) = tokenize([Example(1, row)], tokenizer, 64, FILE)
    prompt = tokenizer("the lamp is")["input_ids"]
    assert tokens.ids[: len(prompt)] == prompt
    assert tokens.targets[: len(prompt)] == [IGNORED] * len(prompt)
    assert learnt(tokens.targets, tokenizer) == " bright<|eos|>"


def test_every_assistant_turn_is_learnt_and_nothing_else(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    row = chat("the lamp", "is fine", "the rug", "is dull")
    (tokens,) = tokenize([Example(1, row)], tokenizer, 64, FILE)
    text = "<|bos|><|user|>the lamp<|assistant|>is fine<|eos|><|user|>the rug<|assistant|>is dull"
    assert tokenizer.decode(tokens.ids) == text + "<|eos|>"
    assert learnt(tokens.targets, tokenizer) == "is fine<|eos|>is dull<|eos|>"


def test_chat_prompt_is_what_the_template_gives_a_server(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    row = chat("the lamp", "is fine")
    (tokens,) = tokenize([Example(1, row)], tokenizer, 64, FILE)
    messages = [{"role": "user", "content": "the lamp"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokens.ids[: len(prompt)] == prompt


def test_rows_longer_than_the_context_are_named_together(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    examples = [Example(line, chat("q" * line, "a")) for line in (3, 80, 90)]
    with pytest.raises(BadData) as error:
        tokenize(examples, tokenizer, 64, FILE)
    assert "2 rows cannot be used" in error.value.message
    assert "line 80: " in error.value.message
    assert "the base's context has 64" in error.value.message


def test_template_that_refuses_or_rewrites_a_row_is_an_error_with_its_line(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rewriting = "{{ messages[-1]['content'] }}"
    refusing = "{{ raise_exception('no assistants here') }}"
    for template, words in ((rewriting, "rewrites earlier turns"), (refusing, "no assistants")):
        tokenizer.chat_template = template
        with pytest.raises(BadData, match=f"line 7: .*{words}"):
            tokenize([Example(7, chat("the lamp", "is fine"))], tokenizer, 64, FILE)


def test_base_without_a_chat_template_learns_from_completions_only(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = None
    with pytest.raises(BadSpec, match="no chat template"):
        tokenize([Example(1, chat("a", "b"))], tokenizer, 64, FILE)


def test_collated_rows_are_padded_on_the_right_and_padding_is_never_learnt(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    examples = [Example(1, chat("the lamp is", "fine")), Example(2, chat("a", "b"))]
    rows = tokenize(examples, tokenizer, 64, FILE)
    batch = collate(rows)
    short = len(rows[1].ids)
    assert batch.ids.shape == batch.mask.shape == batch.targets.shape
    assert batch.ids[1, :short].tolist() == rows[1].ids
    assert batch.mask[1].sum() == short
    assert (batch.targets[1, short:] == IGNORED).all()


def test_batches_hold_every_row_once_per_epoch_in_an_order_of_the_seed() -> None:
    lengths = [(i * 37) % 50 + 1 for i in range(103)]
    batches = shuffled(lengths, 8, 2, seed=0)
    assert sorted(i for batch in batches for i in batch) == sorted([*range(103)] * 2)
    assert batches == shuffled(lengths, 8, 2, seed=0)
    assert batches != shuffled(lengths, 8, 2, seed=1)


def test_rows_of_like_length_share_a_batch() -> None:
    lengths = [(i * 37) % 50 + 1 for i in range(128)]
    padded = sum(len(b) * max(lengths[i] for i in b) for b in shuffled(lengths, 8, 1, seed=0))
    assert padded < 1.2 * sum(lengths)
    batches = list(by_length(lengths, 200))
    assert sorted(i for batch in batches for i in batch) == list(range(128))
    assert all(len(b) * max(lengths[i] for i in b) <= 200 for b in batches)
