"""Each text embedded once: features are stored by base, texts, pooling and layer, and verified.

Refuses to know labels and heads: any number of heads train from one file.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rootstock_adapters.head.spec import HeadPooling
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rootstock_trainer.base import Base

FORMAT = "rootstock.features/1"
LAYER = "last"  # the one that a served head reads


@dataclass(frozen=True)
class Features:
    """One row per text, in the order of the texts that were asked for."""

    rows: Tensor  # [N, D] fp32
    embedded: int  # texts that went through the base now
    note: str  # what was done, for the person who waits


def features_for(
    base: Base,
    texts: Sequence[str],
    folder: Path,
    report: Callable[[int, int], None],
    pooling: HeadPooling | None = None,
) -> Features:
    """The features of `texts` under `base`, from `folder` where they are stored already; pooled as
    the base's card says unless `pooling` says otherwise.

    `report(done, total)` counts embedded texts. Two writers of one file write the same bytes to
    files of their own; the last rename wins. A file that fails its checks is made again.
    """
    unique = sorted(set(texts))
    meaning = _meaning(base, unique, pooling or base.card.pooling)
    file = folder / f"{hashlib.sha256(json.dumps(meaning).encode()).hexdigest()}.safetensors"
    stored, reason = _read(file, meaning, (len(unique), base.card.hidden_size))
    if stored is not None:
        note = f"reusing stored features {file.stem[:12]}, 0 texts embedded"
        return Features(_in_order(stored, unique, texts), 0, note)
    rows = torch.empty(len(unique), base.card.hidden_size)
    done = 0
    for indices, pooled in base.embed(unique, pooling):
        rows[indices] = pooled
        done += len(indices)
        report(done, len(unique))
    _write(file, rows, meaning)
    note = f"{reason}{len(unique)} texts embedded and stored as features {file.stem[:12]}"
    return Features(_in_order(rows, unique, texts), len(unique), note)


def _meaning(base: Base, unique: Sequence[str], pooling: str) -> dict[str, str]:
    texts = json.dumps(unique, separators=(",", ":"))
    return {
        "format": FORMAT,
        "base": base.card.fingerprint,
        "texts": f"sha256:{hashlib.sha256(texts.encode()).hexdigest()}",
        "pooling": pooling,
        "layer": LAYER,
        "normalize": str(base.card.normalize),
    }


def _in_order(rows: Tensor, unique: Sequence[str], texts: Sequence[str]) -> Tensor:
    place = {text: index for index, text in enumerate(unique)}
    return rows[[place[text] for text in texts]]


def _checksum(rows: Tensor) -> str:
    return hashlib.sha256(rows.numpy().tobytes()).hexdigest()


def _write(file: Path, rows: Tensor, meaning: dict[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    data = save({"features": rows}, metadata=meaning | {"sha256": _checksum(rows)})
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as stream:
        stream.write(data)
    os.replace(stream.name, file)


def _read(file: Path, meaning: dict[str, str], shape: tuple[int, int]) -> tuple[Tensor | None, str]:
    """The stored rows; or None and, where a file was there, why it cannot be used."""
    if not file.is_file():
        return None, ""
    data = file.read_bytes()
    unusable = f"stored features {file.stem[:12]} are damaged: "
    try:
        rows = load(data)["features"]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, KeyError, ValueError):
        return None, unusable
    expected = meaning | {"sha256": _checksum(rows)}
    if header.get("__metadata__") != expected or tuple(rows.shape) != shape:
        return None, unusable
    return rows, ""
