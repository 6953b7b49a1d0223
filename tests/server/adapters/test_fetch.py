"""What keeps a version from being loaded is told as what it is: damaged, foreign, or not now."""

from __future__ import annotations

from pathlib import Path

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import BlobStore
from rootstock_registry.errors import Unavailable
from rootstock_server.adapters.fetch import fetch
from rootstock_server.errors import CorruptAdapter, Overloaded

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
