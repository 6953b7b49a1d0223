"""How much of what the base knew a method costs: a loss on general text, before and after.

One number, `forgetting`, is what a promotion can be made to depend on. Refuses to know the method:
a model goes in before it is trained and, with everything that was trained in force, after.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from rootstock_adapters.head.op import pool
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rootstock_trainer.base import Base
from rootstock_trainer.batches import by_length
from rootstock_trainer.errors import BadData
from rootstock_trainer.records import is_text, read_records

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Beside a base that was pre-trained here: documents that it was not trained on.
HELD_OUT = "held-out.jsonl"
ENGLISH = Path(__file__).parent / "general" / "english.jsonl"
MAX_TEXTS = 64
MAX_TOKENS = 256  # of each text
BATCH_TOKENS = 2048
MASKED_SHARE = 0.15  # as BERT was trained (Devlin et al., arXiv 1810.04805)
UNTOUCHED = "forgetting: 0, because the base's weights and its pass are as they were"


class GeneralText(NamedTuple):
    """Rows `{"text"}` or `{"messages"}`, and what they are, for the person who reads a figure."""

    name: str
    rows: list[dict[str, Any]]


def general_text(base: Base, file: Path | None = None) -> GeneralText:
    """The rows of `file`; else what the base's folder keeps as HELD_OUT; else general English.

    Raises BadData where `file` is not JSONL or CSV with `text` (or `messages`).
    """
    if file is not None:
        return GeneralText(file.name, _rows(file))
    own = base.path / HELD_OUT
    if own.is_file():
        return GeneralText(f"documents that base {base.card.name} was not trained on", _rows(own))
    return GeneralText("general English", _rows(ENGLISH))


class ForgettingProbe:
    """Measures a model twice. On decoders: nats per token of the general text. On encoders: nats
    per masked token where the base has a masked-language head, else the drift of its embeddings
    (1 - cosine, 0 to 2). On encoder-decoders: nats per token of each text's second half, given its
    first."""

    def __init__(self, base: Base, text: GeneralText) -> None:
        self._base, self._tokenizer = base, base.tokenizer()
        limit = min(MAX_TOKENS, base.card.context_length * 3 // 4)  # room for virtual tokens
        rows = [_ids(row, self._tokenizer)[:limit] for row in text.rows]
        self._ids = [row for row in rows if len(row) >= 4]
        if not self._ids:
            raise BadData(f"{text.name}: no text of at least four tokens to measure forgetting on")
        self._masked = None if base.card.task != "encode" else _masked_lm(base)
        self._before: float | None = None
        self._embedded: Tensor | None = None
        self.note = f"forgetting: {self._unit()} on {len(self._ids)} texts, {text.name}"

    @torch.inference_mode()
    def before(self, model: PreTrainedModel) -> None:
        """Measure the base as it is."""
        if self._drifts:
            self._embedded = self._embeddings(model)
        else:
            self._before = self._loss(model)

    @torch.inference_mode()
    def after(self, model: PreTrainedModel) -> dict[str, float]:
        """`forgetting` (after - before; below 0 the text became easier) and its terms."""
        if self._drifts:
            if self._embedded is None:
                raise RuntimeError("the base was not measured before")
            cosine = F.cosine_similarity(self._embedded, self._embeddings(model))
            drift = (1 - cosine.double()).mean().item()
            return {"forgetting": drift, "general_embedding_drift": drift}
        if self._before is None:
            raise RuntimeError("the base was not measured before")
        loss = self._loss(model)
        name = "general_masked_loss" if self._masked is not None else "general_loss"
        return {"forgetting": loss - self._before, name: loss, f"base_{name}": self._before}

    @property
    def _drifts(self) -> bool:
        return self._base.card.task == "encode" and self._masked is None

    def _unit(self) -> str:
        if self._drifts:
            return "drift of the embeddings (1 - cosine; the base has no masked-language head)"
        if self._masked is not None:
            return "nats per masked token"
        if self._base.card.task == "text2text":
            return "nats per token of each text's second half"
        return "nats per token"

    def _loss(self, model: PreTrainedModel) -> float:
        """Mean cross-entropy over every token that is predicted."""
        total, tokens = 0.0, 0
        for ids, mask in self._batches():
            if self._masked is not None:
                loss, count = self._masked_loss(model, ids, mask)
            elif self._base.card.task == "text2text":
                loss, count = _second_half_loss(model, ids, mask)
            else:
                loss, count = _next_token_loss(model, ids, mask)
            total, tokens = total + loss, tokens + count
        return total / tokens

    def _embeddings(self, model: PreTrainedModel) -> Tensor:
        """[N, D], pooled as the base's card says, in the order of the batches."""
        pooled = []
        for ids, mask in self._batches():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
            # Virtual tokens in front, where a method has them, are not the text's.
            hidden = hidden[:, -ids.shape[1] :]
            pooled.append(pool(hidden, mask, self._base.card.pooling, self._base.card.normalize))
        return torch.cat(pooled)

    def _masked_loss(self, model: PreTrainedModel, ids: Tensor, mask: Tensor) -> tuple[float, int]:
        """The masked-language head of the base on top of the trained backbone."""
        head = self._masked
        assert head is not None
        generator = torch.Generator().manual_seed(0)  # the same tokens before and after
        special = torch.tensor(self._tokenizer.all_special_ids)
        chosen = (torch.rand(ids.shape, generator=generator) < MASKED_SHARE) & mask.bool()
        chosen &= ~torch.isin(ids, special)
        hidden_ids = ids.masked_fill(chosen, self._tokenizer.mask_token_id)
        own = getattr(head, head.base_model_prefix)
        setattr(head, head.base_model_prefix, model)
        try:
            logits = head(input_ids=hidden_ids, attention_mask=mask).logits[:, -ids.shape[1] :]
        finally:
            setattr(head, head.base_model_prefix, own)
        return _summed(logits[chosen], ids[chosen])

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids and mask, both [B, L], right-padded."""
        pad = self._tokenizer.pad_token_id or 0
        for batch in by_length([len(row) for row in self._ids], BATCH_TOKENS):
            rows = [torch.tensor(self._ids[i]) for i in batch]
            ids = pad_sequence(rows, batch_first=True, padding_value=pad)
            ones = [torch.ones_like(row) for row in rows]
            yield ids, pad_sequence(ones, batch_first=True)


def _next_token_loss(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> tuple[float, int]:
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -ids.shape[1] :]
    told = mask[:, 1:].bool()
    return _summed(logits[:, :-1][told], ids[:, 1:][told])


def _second_half_loss(model: PreTrainedModel, ids: Tensor, mask: Tensor) -> tuple[float, int]:
    lengths = mask.sum(1).tolist()
    halves = [(row[: n // 2], row[n // 2 : n]) for row, n in zip(ids, lengths, strict=True)]
    source = pad_sequence([first for first, _ in halves], batch_first=True)
    seen = pad_sequence([torch.ones_like(first) for first, _ in halves], batch_first=True)
    target = pad_sequence([second for _, second in halves], batch_first=True, padding_value=-100)
    logits = model(input_ids=source, attention_mask=seen, labels=target).logits
    logits = logits[:, -target.shape[1] :]
    told = target != -100
    return _summed(logits[told], target[told])


def _summed(logits: Tensor, targets: Tensor) -> tuple[float, int]:
    """Cross-entropy in nats over [N, V] and [N], and N."""
    return F.cross_entropy(logits.float(), targets, reduction="sum").item(), targets.numel()


def _masked_lm(base: Base) -> PreTrainedModel | None:
    """The base with its masked-language head, where its folder says that it has one."""
    config = json.loads((base.path / "config.json").read_text())
    names = config.get("architectures") or []
    return base.masked_lm() if any(name.endswith("ForMaskedLM") for name in names) else None


def _ids(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if "messages" in row and tokenizer.chat_template:
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return list(tokenizer(_plain(row))["input_ids"])


def _plain(row: dict[str, Any]) -> str:
    if "messages" in row:
        return "\n".join(turn["content"] for turn in row["messages"])
    return str(row["text"])


def _rows(file: Path) -> list[dict[str, Any]]:
    records, faults = read_records(file)
    for record in records:
        fields = record.fields
        turns = fields.get("messages")
        chat = isinstance(turns, list) and all(
            isinstance(turn, dict) and is_text(turn.get("content")) for turn in turns
        )
        if not chat and not is_text(fields.get("text")):
            faults.add(record.line, "neither text nor messages")
    faults.check()
    return _spread([record.fields for record in records])


def _spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most MAX_TEXTS of them, at equal distances."""
    count = min(MAX_TEXTS, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]
