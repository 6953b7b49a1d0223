"""The graph alone, against the torch model it was made from, at every batch and length."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from rootstock_adapters.head.spec import HeadSpec
from rootstock_export.onnx_target import EncoderWithHeads, write_model
from rootstock_export.plan import plan
from rootstock_registry import Registry
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
)

CONTEXT = 24
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": CONTEXT, "pad_token_id": 1,
}  # fmt: skip


def bert(vocabulary: int) -> PreTrainedModel:
    return BertModel(BertConfig(vocab_size=vocabulary, **SIZES))


def roberta(vocabulary: int) -> PreTrainedModel:
    return RobertaModel(RobertaConfig(vocab_size=vocabulary, **SIZES))


def distilbert(vocabulary: int) -> PreTrainedModel:
    sizes = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    return DistilBertModel(
        DistilBertConfig(vocab_size=vocabulary, max_position_embeddings=CONTEXT, **sizes)
    )


@pytest.mark.parametrize(
    ("make", "longest"), [(bert, CONTEXT), (distilbert, CONTEXT), (roberta, CONTEXT - 2)]
)
def test_graph_matches_torch_at_every_length_up_to_the_context(
    make: Callable[[int], PreTrainedModel],
    longest: int,
    make_base: Callable[..., Path],
    registry: Registry,
    publish_head: Callable,
    tmp_path: Path,
) -> None:
    base = make_base(make)
    specs = {
        f"mean-{make.__name__}": HeadSpec(pooling="mean", normalize=True, labels=("a", "b", "c")),
        f"last-{make.__name__}": HeadSpec(pooling="last", normalize=False, labels=("a", "b")),
    }
    versions = [publish_head(base, name, spec) for name, spec in specs.items()]
    planned = plan(versions, base, registry)

    assert planned.card.context_length == longest

    write_model(planned, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]

    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["head_0_logits", "head_1_logits"]
    module = EncoderWithHeads(AutoModel.from_pretrained(base), planned).eval()
    for length in range(1, longest + 1):
        for batch in (1, 3):
            ids, mask = _right_padded(batch, length)
            with torch.no_grad():
                expected = module(ids, mask)
            feed = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
            for ours, theirs in zip(session.run(None, feed), expected, strict=True):
                np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5)


def _right_padded(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(4, 40, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    if batch > 1:
        mask[1, (length + 1) // 2 :] = 0
        ids[mask == 0] = 0
    return ids, mask
