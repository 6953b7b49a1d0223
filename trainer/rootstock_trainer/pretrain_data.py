"""From documents to token rows: the byte-level tokenizer with its chat template, and packing.

Knows nothing of models, losses and files.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from rootstock_trainer.pretrain_settings import (
    BOS,
    EOS,
    PAD,
    ROLES,
    SPECIAL_TOKENS,
    PretrainError,
    PretrainSettings,
)

Row = dict[str, Any]
Tokens = npt.NDArray[np.int64]

# GPT-2's pattern with the marks (\p{M}) among the letters: it would cut a word of a script that
# writes its vowels as marks, such as Bengali, into single letters. The same on ASCII text.
WORDS = Regex(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}\p{M}]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = """{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception("role must be system, user or assistant, not " ~ message['role']) -}}
{%- endif -%}
{{- '<|' ~ message['role'] ~ '|>' ~ message['content'] | trim -}}
{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def digest(path: Path) -> str:
    """`sha256:` and the hexadecimal digest of a file."""
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def contents(row: Row) -> list[str]:
    """The texts of a row without any markup."""
    return [row["text"]] if "text" in row else [turn["content"] for turn in row["messages"]]


def train_tokenizer(rows: list[Row], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the rows' texts; every script round-trips, digits stay single tokens.

    `context` becomes `model_max_length`. A small corpus may fill fewer than `vocabulary` entries.
    """
    bpe = Tokenizer(models.BPE())
    # Numbers digit by digit: copying an order number is then one rule instead of a thousand.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.Split(WORDS, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator((text for row in rows for text in contents(row)), trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[f"<|{role}|>" for role in ROLES],
        chat_template=CHAT_TEMPLATE,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def encode(rows: list[Row], tokenizer: PreTrainedTokenizerFast) -> list[Tokens]:
    """One array `[tokens]` per row, `<|bos|>` first and `<|eos|>` last, chats by the template."""
    texts = [
        f"{BOS}{row['text'].strip()}{EOS}"
        if "text" in row
        else tokenizer.apply_chat_template(row["messages"], tokenize=False)
        for row in rows
    ]
    encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    eos = tokenizer.convert_tokens_to_ids(EOS)
    encoded = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
    # A chat that stops at the user still ends here.
    return [ids if ids[-1] == eos else np.append(ids, eos) for ids in encoded]


def pieces(documents: list[Tokens], context: int) -> list[Tokens]:
    """Documents over the context in consecutive pieces of it, so that nothing of them is lost."""
    return [
        ids[start : start + context]
        for ids in documents
        for start in range(0, len(ids), context)
        if start == 0 or len(ids) - start > 1  # one token alone predicts nothing
    ]


def split(rows: list[Row], share: float, chance: np.random.Generator) -> tuple[list[Row], ...]:
    """Shuffle into training and held-out rows; a held-out row never occurs in training."""
    order = chance.permutation(len(rows))
    cut = max(1, round(len(rows) * share))
    held_out, training = [rows[i] for i in order[:cut]], [rows[i] for i in order[cut:]]
    seen = {json.dumps(row, sort_keys=True) for row in training}
    return training, [row for row in held_out if json.dumps(row, sort_keys=True) not in seen]


def batches(
    documents: list[Tokens], settings: PretrainSettings, pad: int, chance: np.random.Generator
) -> list[Tokens]:
    """One pass over the documents in random order: arrays `[rows, tokens]`, padded with `pad`.

    Most batches hold whole documents of like length, so that a model sees each by itself and
    learns to look back within it; `packed_share` of the documents stand end to end in rows of the
    full context, so that late positions are learned too. Every batch is at most about
    `batch_tokens`. Raises `PretrainError` where the data does not fill one context.
    """
    total, context = sum(map(len, documents)), settings.context
    if total < context:
        raise PretrainError(
            f"the data has {total} tokens, fewer than one context of {context}: "
            "add documents or lower the context"
        )
    cut = round(len(documents) * settings.packed_share)
    made = _alone([ids[:context] for ids in documents[cut:]], settings.batch_tokens, pad)
    stream = np.concatenate([np.zeros(0, dtype=np.int64), *documents[:cut]])
    rows = len(stream) // context
    packed = stream[: rows * context].reshape(rows, context)
    per_batch = max(1, settings.batch_tokens // context)
    made += [packed[start : start + per_batch] for start in range(0, rows, per_batch)]
    return [made[place] for place in chance.permutation(len(made))]


def _alone(documents: list[Tokens], batch_tokens: int, pad: int) -> list[Tokens]:
    """Batches of whole documents, each padded to the longest of its batch."""
    made: list[Tokens] = []
    group: list[Tokens] = []
    for ids in sorted(documents, key=len):
        if group and len(ids) * (len(group) + 1) > batch_tokens:
            made.append(_padded(group, pad))
            group = []
        group.append(ids)
    return [*made, _padded(group, pad)] if group else made


def _padded(documents: list[Tokens], pad: int) -> Tokens:
    longest = max(map(len, documents))
    return np.stack(
        [np.pad(ids, (0, longest - len(ids)), constant_values=pad) for ids in documents]
    )
