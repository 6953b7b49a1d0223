"""One ONNX file out of a plan: the encoder once, each pooling once, a linear layer per head.

Built from the functions the server computes with; refuses to know manifests, folders and parity.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
import torch
from rootstock_adapters.head import op
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import logging as transformers_logging

from rootstock_export.errors import NotExportable
from rootstock_export.plan import Plan

OPSET = 20


class EncoderWithHeads(nn.Module):
    """`input_ids`, `attention_mask` [B, L] int64 → per head, logits [B, labels] fp32.

    Heads that pool alike share one pooled vector.
    """

    def __init__(self, encoder: nn.Module, plan: Plan) -> None:
        super().__init__()
        self.encoder = encoder
        self.poolings = [(head.spec.pooling, head.spec.normalize) for head in plan.heads]
        tensors = [safetensors.torch.load(head.data) for head in plan.heads]
        self.weights = nn.ParameterList([each["weight"].float() for each in tensors])
        self.biases = nn.ParameterList([each["bias"].float() for each in tensors])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        pooled = {
            (pooling, normalize): op.pool(hidden, attention_mask, pooling, normalize)
            for pooling, normalize in set(self.poolings)
        }
        return tuple(
            op.logits(pooled[pooling], weight, bias)
            for pooling, weight, bias in zip(self.poolings, self.weights, self.biases, strict=True)
        )


def write_model(plan: Plan, file: Path) -> None:
    """Write the graph with its weights, fp32, batch and length dynamic, as one file.

    Raises NotExportable where the encoder cannot be loaded or traced.
    """
    with _quiet():
        encoder = _load(plan)
        program = _trace(encoder, plan)
    program.save(file, external_data=False)


def _trace(encoder: PreTrainedModel, plan: Plan) -> torch.onnx.ONNXProgram:
    longest = plan.card.context_length
    # No example dimension may be 1: the tracer would take it for a constant.
    ids = torch.ones(2, min(8, longest), dtype=torch.long)
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=longest)}
    try:
        program = torch.onnx.export(
            EncoderWithHeads(encoder, plan).eval(),
            (ids, torch.ones_like(ids)),
            input_names=["input_ids", "attention_mask"],
            output_names=[head.output for head in plan.heads],
            dynamic_shapes={"input_ids": dims, "attention_mask": dims},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise _refusal(plan, "written as ONNX", error) from error
    assert program is not None  # None is for the old exporter only
    return program


@contextmanager
def _quiet() -> Iterator[None]:
    """The libraries' bars and notes about their own internals would cover the caller's progress."""
    exporter = logging.getLogger("torch.onnx")
    level, bar = exporter.level, transformers_logging.is_progress_bar_enabled()
    exporter.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
        if bar:
            transformers_logging.enable_progress_bar()


def _load(plan: Plan) -> PreTrainedModel:
    try:
        model: PreTrainedModel = AutoModel.from_pretrained(
            plan.base_path, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _refusal(plan, "loaded", error) from error
    model.eval().requires_grad_(False)
    return model


def _refusal(plan: Plan, what: str, error: Exception) -> NotExportable:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return NotExportable(
        f"base {plan.card.name} ({plan.card.model_type}) cannot be {what}: {reason}"
    )
