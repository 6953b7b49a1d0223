"""A package, opened: text to token ids to logits to labels, as the server does it.

Refuses to know where the package came from and what its encoder is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from rootstock_edge.manifest import MODEL, TOKENIZER, Head, Manifest, PackageError

BATCH = 16
FATAL_ONLY = 4  # onnxruntime's log severity: what goes wrong is raised, in words


@dataclass(frozen=True)
class Result:
    """One head's verdict on one text: `score` is the probability of `label`, the likeliest."""

    label: str
    score: float
    probs: dict[str, float]


class Package:
    """An exported folder, ready to classify. Safe to share between threads."""

    def __init__(self, folder: str | PathLike[str]) -> None:
        """Raises PackageError where a file is missing, changed since the export, or unreadable."""
        self.manifest = Manifest.read(Path(folder))
        data = {name: self.manifest.load(name) for name in self.manifest.files}
        ort.set_default_logger_severity(FATAL_ONLY)
        try:
            self._tokenizer = Tokenizer.from_str(data[TOKENIZER].decode())
            self._session = ort.InferenceSession(data[MODEL], providers=["CPUExecutionProvider"])
        except Exception as error:  # both libraries raise bare Exception
            raise PackageError(f"{folder} cannot be opened: {error}") from error
        self._check_outputs()
        # As on the server, a special token that someone wrote is plain text, never the token.
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.enable_truncation(self.manifest.max_length)
        self._tokenizer.no_padding()

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(head.name for head in self.manifest.heads)

    def classify(
        self, texts: str | Sequence[str], heads: Iterable[str] | None = None
    ) -> list[dict[str, Result]]:
        """One pass per batch: for each text, in order, head name → result.

        `heads` None means all. A text over `manifest.max_length` tokens is cut there. Raises
        ValueError for an unknown head and for a text that cannot be read.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        chosen = self._choose(heads)
        encoded = [self._encode(index, text) for index, text in enumerate(texts)]
        results: list[dict[str, Result]] = [{} for _ in texts]
        # Neighbours of like length pad each other least.
        order = sorted(range(len(texts)), key=lambda index: len(encoded[index]))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            answers = self._run([encoded[index] for index in batch], chosen)
            for index, answer in zip(batch, answers, strict=True):
                results[index] = answer
        return results

    def _choose(self, names: Iterable[str] | None) -> list[Head]:
        known = {head.name: head for head in self.manifest.heads}
        wanted = list(known if names is None else names)
        for name in wanted:
            if name not in known:
                raise ValueError(f"heads: no head {name!r} here (there are: {', '.join(known)})")
        return [known[name] for name in wanted]

    def _encode(self, index: int, text: str) -> list[int]:
        try:
            ids: list[int] = self._tokenizer.encode(text).ids
        except TypeError as error:
            raise ValueError(f"texts[{index}] is not a str of valid Unicode") from error
        if not ids:
            raise ValueError(f"texts[{index}] is empty, there is nothing to read")
        return ids

    def _run(self, rows: list[list[int]], heads: list[Head]) -> list[dict[str, Result]]:
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        logits = self._session.run([head.output for head in heads], inputs)
        probs = [_softmax(each) for each in logits]
        return [
            {head.name: _result(head, p[i]) for head, p in zip(heads, probs, strict=True)}
            for i in range(len(rows))
        ]

    def _check_outputs(self) -> None:
        widths = {output.name: output.shape[-1] for output in self._session.get_outputs()}
        for head in self.manifest.heads:
            if widths.get(head.output) != len(head.labels):
                raise PackageError(
                    f"{self.manifest.folder}: head {head.name} has {len(head.labels)} labels, "
                    f"but the model's output {head.output} does not; export the package again"
                )


def _softmax(logits: np.ndarray) -> np.ndarray:
    """[B, labels] → [B, labels], in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    normalised: np.ndarray = shifted / shifted.sum(axis=-1, keepdims=True)
    return normalised


def _result(head: Head, probs: np.ndarray) -> Result:
    best = int(probs.argmax())
    by_label = dict(zip(head.labels, probs.tolist(), strict=True))
    return Result(head.labels[best], float(probs[best]), by_label)
