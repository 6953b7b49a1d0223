"""Sound folders as PEFT's and AdapterHub's libraries save them, one of each kind that is imported.

What breaks them is the tests' business.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Registry
from safetensors.numpy import save

WIDTH, RANK = 8, 2
LINEARS = [f"layers.{n}.self_attn.{name}" for n in range(2) for name in ("q_proj", "v_proj")]
CARD = BaseCard(
    name="tiny", fingerprint="sha256:" + "1" * 64, model_type="llama", task="generate",
    hidden_size=WIDTH, layers=2, vocab_size=64, context_length=32, pooling="last", normalize=True,
    linears=dict.fromkeys(LINEARS, (WIDTH, WIDTH)),
    parameters={"embed_tokens.weight": (64, WIDTH)},
)  # fmt: skip
ENCODER = CARD.model_copy(update={
    "model_type": "bert", "task": "encode",
    "linears": {f"encoder.layer.{n}.output.dense": (WIDTH, 16) for n in range(2)},
})  # fmt: skip
PREFIX = "base_model.model.model."
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
TARGETS = ["q_proj", "v_proj"]
Config = dict[str, Any]


def tensors(shapes: dict[str, tuple[int, ...]]) -> bytes:
    return save({name: np.ones(shape, np.float32) for name, shape in shapes.items()})


LORA = (
    {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": 4,
     "target_modules": TARGETS, "bias": "none"},
    tensors({f"{PREFIX}{module}.lora_{leaf}.weight": shape for module in LINEARS
             for leaf, shape in (("A", (RANK, WIDTH)), ("B", (WIDTH, RANK)))}),
)  # fmt: skip
IA3 = (
    {"peft_type": "IA3", "target_modules": TARGETS, "feedforward_modules": []},
    tensors({f"{PREFIX}{module}.ia3_l": (WIDTH, 1) for module in LINEARS}),
)
SOFT = (
    {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3},
    tensors({"prompt_embeddings": (3, WIDTH)}),
)
HUB = (
    {"model_type": "bert", "name": "task", "config": {
        "mh_adapter": False, "output_adapter": True, "non_linearity": "relu",
        "original_ln_before": False, "reduction_factor": 4}},
    tensors({f"bert.encoder.layer.{n}.output.adapters.task.adapter_{leaf}": shape
             for n in range(2) for leaf, shape in (
                 ("down.0.weight", (2, WIDTH)), ("down.0.bias", (2,)),
                 ("up.weight", (WIDTH, 2)), ("up.bias", (WIDTH,)))}),
)  # fmt: skip
FOLDERS = {"lora": LORA, "ia3": IA3, "soft": SOFT, "hub": HUB}


def taken(registry: Registry, kind: str, folder: Path) -> Any:
    if kind == "hub":
        return registry.import_adapterhub("local", "triage", folder, ENCODER, promote="prod")
    return registry.import_peft("local", "triage", folder, CARD, promote="prod")


def written(folder: Path, kind: str, **changes: Any) -> Path:
    config, weights = FOLDERS[kind]
    (folder / CONFIG).write_text(json.dumps(config | changes))
    (folder / ("adapter.safetensors" if kind == "hub" else WEIGHTS)).write_bytes(weights)
    return folder
