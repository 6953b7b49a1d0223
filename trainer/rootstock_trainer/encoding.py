"""Rows of each task as token ids, as a server will meet them; what does not fit is named by line.

Refuses to know the model's weights, and where the ids are kept.
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import TemplateError
from rootstock_adapters.base_card import BaseCard

from rootstock_trainer.errors import BadData, BadSpec
from rootstock_trainer.records import Faults
from rootstock_trainer.rows import Chat, Completion, Example, Labelled, Row, Tagged
from rootstock_trainer.tokens import IGNORED, TokenRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Encoder(ABC):
    """Makes token rows of one task for one base.

    Rows of over `context` tokens are at fault; with `cut` they end there instead.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, context: int, file: Path, cut: bool = False
    ) -> None:
        self.tokenizer, self.context, self.cut = tokenizer, context, cut
        self.shortened = 0
        self._faults = Faults(file)

    def rows(self, rows: Iterable[Row]) -> Iterator[TokenRow]:
        """One token row per row. Raises BadData, at the end, naming every row at fault."""
        for row in rows:
            try:
                tokens = self.encode(row)
                yield self._fitting(tokens)
            except (TemplateError, BadData) as error:
                self._faults.add(row.line, str(error))
        self._faults.check()

    @abstractmethod
    def encode(self, row: Row) -> TokenRow:
        """Raises BadData, or TemplateError."""

    def text(self, text: str) -> list[int]:
        """A caller's text, with what the tokenizer puts around one. Special tokens in it are the
        plain text they are, as on a server."""
        ids: list[int] = self.tokenizer(text, split_special_tokens=True)["input_ids"]
        return ids

    def _fitting(self, tokens: TokenRow) -> TokenRow:
        longest = max(len(tokens.ids), len(tokens.source))
        if longest <= self.context:
            return tokens
        if not self.cut:
            raise BadData(f"{longest} tokens, the base's context has {self.context}")
        self.shortened += 1
        whole = len(tokens.targets) == len(tokens.ids)
        targets = tokens.targets[: self.context] if whole else tokens.targets
        if all(target == IGNORED for target in targets):
            raise BadData(f"its answer begins after max_length, {self.context} tokens")
        return TokenRow(tokens.ids[: self.context], targets, tokens.source[: self.context])


class ChatEncoder(Encoder):
    """A decoder's chats and completions; only answers are learnt."""

    def encode(self, row: Row) -> TokenRow:
        if not isinstance(row, Example):
            raise BadData("neither messages nor prompt and completion")
        return self._chat(row.row) if isinstance(row.row, Chat) else self._plain(row.row)

    def _plain(self, row: Completion) -> TokenRow:
        if row.source_lang or row.target_lang:
            raise BadData("source_lang, target_lang: this base is no translator")
        prompt = self.text(row.prompt)
        answer = _answer(self.tokenizer, row.completion)
        return TokenRow(prompt + answer, [IGNORED] * len(prompt) + answer)

    def _chat(self, row: Chat) -> TokenRow:
        if not self.tokenizer.chat_template:
            raise BadSpec(
                "base: it has no chat template, so it cannot learn from messages: "
                "use rows with prompt and completion"
            )
        ids: list[int] = []
        targets: list[int] = []
        try:
            for text, is_answer in _segments(row, self.tokenizer):
                # The template writes the special tokens itself.
                segment = self.tokenizer(text, add_special_tokens=False)["input_ids"]
                ids += segment
                targets += segment if is_answer else [IGNORED] * len(segment)
        except (TemplateError, BadData) as error:
            raise BadData(f"the base's chat template refuses it: {error}") from error
        return TokenRow(ids, targets)


class SourceEncoder(Encoder):
    """An encoder-decoder's texts and what is to be written for them."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context: int,
        file: Path,
        cut: bool,
        card: BaseCard,
    ) -> None:
        super().__init__(tokenizer, context, file, cut)
        self._card = card

    def encode(self, row: Row) -> TokenRow:
        if not isinstance(row, Example):
            raise BadData("neither messages nor prompt and completion")
        source, start = self._begun(row.row)
        answer = _answer(self.tokenizer, row.row.answer)
        return TokenRow([*start, *answer], [IGNORED] * len(start) + answer, source)

    def _begun(self, row: Chat | Completion) -> tuple[list[int], list[int]]:
        """What the encoder reads, and what the decoder begins with."""
        if isinstance(row, Chat):
            if [message.role for message in row.messages] != ["user", "assistant"]:
                raise BadData("this base reads one text and writes another: one user's message")
            text, source_lang, target_lang = row.messages[0].content, None, None
        else:
            text, source_lang, target_lang = row.prompt, row.source_lang, row.target_lang
        if not self._card.translates:
            if source_lang or target_lang:
                raise BadData("source_lang, target_lang: this base is no translator")
            return self.text(text), list(self._card.decoder_start)
        languages = [
            self._language(field, code)
            for field, code in (("source_lang", source_lang), ("target_lang", target_lang))
        ]
        # A language that a text names is plain text, as on a server.
        plain = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        end = [self.tokenizer.eos_token_id]
        return [languages[0], *plain, *end], [self._card.decoder_start[0], languages[1]]

    def _language(self, field: str, code: str | None) -> int:
        if code is None:
            raise BadData(f"{field}: this base translates, so each row needs one (such as `en`)")
        token: int = self.tokenizer.convert_tokens_to_ids(code if "_" in code else f"__{code}__")
        if token == self.tokenizer.unk_token_id or token >= self._card.vocab_size:
            raise BadData(f"{field}: this base does not know the language {code!r}")
        return token


class LabelEncoder(Encoder):
    """Labelled texts for any base; a long one is always cut, as for embeddings."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        context: int,
        file: Path,
        cut: bool,
        labels: Sequence[str],
    ) -> None:
        super().__init__(tokenizer, context, file, cut=True)
        self._number = {label: number for number, label in enumerate(labels)}

    def encode(self, row: Row) -> TokenRow:
        if isinstance(row, Tagged):
            return self._words(row)
        if not isinstance(row, Labelled):
            raise BadData("no text with a label")
        ids: list[int] = self.tokenizer(
            row.text, split_special_tokens=True, truncation=True, max_length=self.context
        )["input_ids"]
        return TokenRow(ids, [self._number[row.labels[0]]])

    def _words(self, row: Tagged) -> TokenRow:
        """Every token of a word has the word's label; after the first, `B-` becomes `I-`."""
        text, ends = " ".join(row.words), []
        for word in row.words:
            ends.append((ends[-1] + 1 if ends else 0) + len(word))
        encoded = self.tokenizer(
            text,
            split_special_tokens=True,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        targets, before = [], -1
        for (begin, end), special in zip(
            encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True
        ):
            word = bisect.bisect_left(ends, end) if end > begin and not special else -1
            targets.append(self._tag(row.labels[word], word == before) if word >= 0 else IGNORED)
            before = word
        return TokenRow(encoded["input_ids"], targets)

    def _tag(self, label: str, continues: bool) -> int:
        inner = f"I-{label[2:]}"
        inside = continues and label.startswith("B-") and inner in self._number
        return self._number[inner if inside else label]


def _answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    answer: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return answer if tokenizer.eos_token_id is None else [*answer, tokenizer.eos_token_id]


def _segments(row: Chat, tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[str, bool]]:
    """The rendered conversation in pieces: (text, whether it is to be learnt)."""
    messages = [message.said for message in row.messages]

    def render(count: int, prompt: bool = False) -> str:
        return str(
            tokenizer.apply_chat_template(
                messages[:count], tokenize=False, add_generation_prompt=prompt
            )
        )

    whole, written = render(len(messages)), 0
    for turn, message in enumerate(row.messages):
        if message.role != "assistant":
            continue
        question, answered = render(turn, prompt=True), render(turn + 1)
        if not (whole.startswith(answered) and answered.startswith(question)):
            raise BadData("it rewrites earlier turns; give each answer a row of its own")
        yield whole[written : len(question)], False
        yield whole[len(question) : len(answered)], message.is_answer
        written = len(answered)
