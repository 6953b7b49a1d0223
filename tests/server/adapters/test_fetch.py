"""What keeps a version from being loaded is told as what it is: damaged, foreign, or not now."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.spec import HeadSpec
from rootstock_registry import BlobStore, Lineage, NewPart, Registry
from rootstock_registry.errors import Unavailable
from rootstock_server.adapters.fetch import fetch
from rootstock_server.errors import CorruptAdapter, Overloaded
from safetensors.torch import save

DIGEST = "sha256:" + "1" * 64


def card() -> BaseCard:
    return BaseCard(
        name="tiny",
        fingerprint=DIGEST,
        model_type="bert",
        task="encode",
        hidden_size=8,
        layers=1,
        vocab_size=64,
        context_length=32,
        pooling="mean",
        normalize=True,
        linears={},
    )


def test_a_version_that_is_not_stored_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(CorruptAdapter, match=DIGEST):
        fetch(BlobStore(tmp_path), card(), DIGEST)


def test_blobs_that_do_not_answer_are_no_damage_and_the_answer_does_not_say_where_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Down(BlobStore):
        def get(self, digest: str) -> bytes:
            raise Unavailable("blobs in s3://shelf/x cannot be read now: timed out")

    with pytest.raises(Overloaded, match="cannot be fetched now; try again") as told:
        fetch(Down(tmp_path), card(), DIGEST)
    assert told.value.status == 503
    assert "s3://" not in str(told.value)
    assert "s3://shelf/x" in caplog.text


def test_a_file_that_is_cut_while_it_is_loaded_is_whole_or_corrupt_and_no_signal(
    tmp_path: Path,
) -> None:
    """Nothing is mapped: a load gets the bytes that were published, or is told that it did not."""
    labels = tuple(f"label {number}" for number in range(1024))
    spec = HeadSpec(pooling="mean", normalize=True, labels=labels, hidden=512)
    shapes = spec.tensor_shapes(card())
    data = save({name: torch.ones(shape) for name, shape in shapes.items()})
    registry = Registry(tmp_path)
    version = registry.publish(
        "local", "mood", card(), [NewPart(spec, data)], lineage=Lineage(method="test")
    )
    registry.close()
    digest = version.manifest.parts[0].blob.removeprefix("sha256:")
    file = tmp_path / "blobs" / "sha256" / digest[:2] / digest[2:]
    file.chmod(0o600)
    blobs, told = BlobStore.of(tmp_path), []

    def load() -> None:
        try:
            fetch(blobs, card(), version.digest)
            told.append("whole")
        except CorruptAdapter:
            told.append("corrupt")

    for turn in range(40):
        file.write_bytes(data)
        loading = threading.Thread(target=load)
        loading.start()
        os.truncate(file, len(data) * turn // 40)
        loading.join()
    load()
    file.write_bytes(data)
    load()
    assert len(told) == 42 and set(told) == {"whole", "corrupt"}
    assert told[-2:] == ["corrupt", "whole"]
