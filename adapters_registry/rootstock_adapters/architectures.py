"""The table of architectures: what a base's files alone do not say about its `model_type`.

Imports nothing, so that an engine can run where only torch is. Refuses to know any one base.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

# What a base does: continue a text, read one, or read one and write another. The last is the
# name of Hugging Face's pipeline for it.
Task = Literal["generate", "encode", "text2text"]


class Architecture(NamedTuple):
    """What the file names alone do not say about a `model_type`."""

    prefix: str  # module path of the backbone inside the task model, as PEFT writes it
    task: Task
    transposed: bool = False  # weights stored [in, out] (Hugging Face's Conv1D)
    offset_positions: bool = False  # positions count from after the padding id, not from 0
    translates: bool = False  # between languages, each of which is a token of its tokenizer


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("model", "generate"),
    "mistral": Architecture("model", "generate"),
    "qwen2": Architecture("model", "generate"),
    "qwen3": Architecture("model", "generate"),
    "gemma2": Architecture("model", "generate"),
    "gemma3_text": Architecture("model", "generate"),
    "phi": Architecture("model", "generate"),
    "gpt2": Architecture("transformer", "generate", transposed=True),
    "gpt_neox": Architecture("gpt_neox", "generate"),
    "opt": Architecture("model", "generate"),
    "bert": Architecture("bert", "encode"),
    "roberta": Architecture("roberta", "encode", offset_positions=True),
    "distilbert": Architecture("distilbert", "encode"),
    "electra": Architecture("electra", "encode"),
    "albert": Architecture("albert", "encode"),
    "modernbert": Architecture("model", "encode"),
    "m2m_100": Architecture("model", "text2text", translates=True),
    "t5": Architecture("", "text2text"),
}


def position_offset(config: dict[str, Any]) -> int:
    """The position of the first token; embeddings before it are never used."""
    offset = ARCHITECTURES[config["model_type"]].offset_positions
    return int(config.get("pad_token_id", 1)) + 1 if offset else 0
