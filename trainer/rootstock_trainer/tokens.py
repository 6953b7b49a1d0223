"""Rows as token ids, marked with what is to be learnt, and kept on disk: a file may be large.

Refuses to know the model. Texts are tokenised as the server does it, apart from their answers, so
that training sees the ids that serving will see.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rootstock_trainer.data import Example

IGNORED = -100  # torch's cross_entropy leaves out targets of this value


class TokenRow(NamedTuple):
    """One row. Of a decoder, `targets` are its ids where the answer is, IGNORED elsewhere; of an
    encoder-decoder too, and `source` is what its encoder reads. Of labelled texts `targets` is the
    one label, of words a label for each id."""

    ids: list[int]
    targets: list[int]
    source: Sequence[int] = ()


class TokenBatch(NamedTuple):
    """Rows side by side, right-padded; or, packed, one behind the other in one row."""

    ids: Tensor  # [B, L] int64
    mask: Tensor | None  # [B, L] int64; None where rows are packed
    targets: Tensor  # [B, L] int64; [B] where each row has one label
    positions: Tensor | None = None  # [1, L] int64 where rows are packed: each begins at 0
    source: Tensor | None = None  # [B, S] int64
    source_mask: Tensor | None = None  # [B, S] int64


class TokenStore(Sequence[TokenRow]):
    """Token rows in a file without a name, which is gone with the process; memory holds four
    numbers a row."""

    def __init__(self, rows: Iterable[TokenRow], folder: Path | None = None) -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        sizes = array("i")
        with tempfile.TemporaryFile(dir=folder) as file:
            for row in rows:
                file.write(array("i", [*row.ids, *row.targets, *row.source]).tobytes())
                sizes.extend((len(row.ids), len(row.targets), len(row.source)))
            file.flush()
            # The mapping outlives the closed file, and is all that keeps its blocks.
            mapped = np.memmap(file, np.int32, mode="r") if file.tell() else np.zeros(0, np.int32)
        self._tokens = mapped
        self._sizes = np.frombuffer(sizes, np.int32).reshape(-1, 3)
        widths = self._sizes.sum(1, dtype=np.int64)
        self._begins = np.cumsum(widths) - widths
        self.lengths: NDArray[np.int32] = self._sizes[:, 0] + self._sizes[:, 2]

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, index: int) -> TokenRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenRow]: ...
    def __getitem__(self, index: int | slice) -> TokenRow | list[TokenRow]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        ids, targets, source = self._sizes[index].tolist()
        begin = int(self._begins[index])
        flat = self._tokens[begin : begin + ids + targets + source].tolist()
        return TokenRow(flat[:ids], flat[ids : ids + targets], flat[ids + targets :])


def tokenize(
    examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase, context: int, file: Path
) -> list[TokenRow]:
    """A decoder's rows of ids, all at once. Raises BadData naming every row that does not fit
    `context` tokens or the chat template, BadSpec where chats meet a base without a template."""
    from rootstock_trainer.encoding import ChatEncoder

    return list(ChatEncoder(tokenizer, context, file).rows(examples))


def collate(rows: Sequence[TokenRow], one_label: bool = False) -> TokenBatch:
    """Rows side by side; with `one_label` each has one target, else one for each id."""
    ids, mask = _padded([row.ids for row in rows])
    if one_label:
        targets = torch.tensor([row.targets[0] for row in rows])
    else:
        own = [torch.tensor(row.targets) for row in rows]
        targets = pad_sequence(own, batch_first=True, padding_value=IGNORED)
    if not rows[0].source:
        return TokenBatch(ids, mask, targets)
    source, source_mask = _padded([row.source for row in rows])
    return TokenBatch(ids, mask, targets, None, source, source_mask)


def pack(rows: Sequence[TokenRow]) -> TokenBatch:
    """Rows one behind the other; nothing of the first token of one is asked of the last before."""
    ids = [token for row in rows for token in row.ids]
    targets = [target for row in rows for target in (IGNORED, *row.targets[1:])]
    positions = [place for row in rows for place in range(len(row.ids))]
    one = [torch.tensor([each]) for each in (ids, targets, positions)]
    return TokenBatch(one[0], None, one[1], one[2])


def _padded(rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    each = [torch.tensor(row) for row in rows]
    ones = [torch.ones_like(row) for row in each]
    return pad_sequence(each, batch_first=True), pad_sequence(ones, batch_first=True)


def chosen(store: Sequence[TokenRow], indices: Sequence[int]) -> Iterator[TokenRow]:
    """The rows at `indices`, one after another."""
    return (store[int(index)] for index in indices)
