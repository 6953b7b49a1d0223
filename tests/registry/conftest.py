"""A real registry in a temporary home, a card of a tiny base, and heads that fit it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.spec import HeadSpec
from rootstock_registry import Lineage, NewPart, Registry
from safetensors.numpy import save

LINEAGE = Lineage(method="head", seed=0)


@pytest.fixture
def card() -> BaseCard:
    return BaseCard(
        name="tiny",
        fingerprint="sha256:" + "1" * 64,
        model_type="bert",
        task="encode",
        hidden_size=8,
        layers=1,
        vocab_size=64,
        context_length=32,
        pooling="mean",
        normalize=True,
        linears={"encoder.layer.0.attention.self.query": (8, 8)},
    )


@pytest.fixture
def head() -> Callable[[float], NewPart]:
    def make(value: float, width: int = 8) -> NewPart:
        spec = HeadSpec(pooling="mean", normalize=True, labels=("no", "yes"))
        weight = np.full((2, width), value, np.float32)
        return NewPart(spec, save({"weight": weight, "bias": np.zeros(2, np.float32)}))

    return make


@pytest.fixture
def lineage() -> Lineage:
    return LINEAGE


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path) -> Iterator[Registry]:
    registry = Registry(home)
    yield registry
    registry.close()
