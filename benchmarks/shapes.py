"""Make the base and the adapters of a workload: random weights from a config and a fixed seed.

Refuses to know who will serve them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.workload import RANKS, SEED, Shape

ADAPTER_STD = 0.02  # Llama's own initializer_range: updates that change answers
SPACE = "\u0120"  # how byte-level tokenizers write a space


def make_base(shape: Shape, path: Path) -> Path:
    """Write a Hugging Face folder with model and tokenizer; return it."""
    torch.manual_seed(SEED)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.ffn,
        vocab_size=shape.vocab,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).to(getattr(torch, shape.dtype))
    model.save_pretrained(path)
    _tokenizer(shape).save(str(path / "tokenizer.json"))
    # vLLM looks here for the tokenizer's class.
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def make_adapter(shape: Shape, base: Path, number: int, path: Path) -> Path:
    """Write the PEFT folder of adapter `number`: all seven linears, both matrices random."""
    rank = RANKS[number % len(RANKS)]
    generator = torch.Generator().manual_seed(SEED + number)
    dtype = getattr(torch, shape.dtype)

    def random(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=generator).mul_(ADAPTER_STD).to(dtype)

    tensors = {}
    for layer, (linear, (inputs, outputs)) in product(range(shape.layers), shape.linears.items()):
        place = f"base_model.model.model.layers.{layer}.{linear}"
        tensors[f"{place}.lora_A.weight"] = random(rank, inputs)
        tensors[f"{place}.lora_B.weight"] = random(outputs, rank)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=[linear.rpartition(".")[2] for linear in shape.linears],
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(base),
        inference_mode=True,
    )
    path.mkdir(parents=True)
    config.save_pretrained(str(path))
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    return path


def _tokenizer(shape: Shape) -> Tokenizer:
    """Byte-level, with a text for every id, so that answers can be turned into text.

    Prompts are token ids: nobody encodes with it, so it needs no merges.
    """
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces += islice(_words(), shape.vocab - len(pieces))
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _words() -> Iterator[str]:
    """35,152 different words of three letters, with and without a space in front."""
    for space in (SPACE, ""):
        for letters in product(ascii_lowercase, repeat=3):
            yield space + "".join(letters)
