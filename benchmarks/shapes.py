"""Make the base and the adapters of a workload: random weights from a config and a fixed seed.

Refuses to know who will serve them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.workload import Settings, Shape, adapter_names

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER_STD = 0.02  # Llama's own initializer_range: updates that change answers
SPACE = "\u0120"  # how byte-level tokenizers write a space


def make_base(settings: Settings, folder: Path) -> Path:
    """Write a Hugging Face folder with model and tokenizer; return it."""
    shape = settings.shape
    torch.manual_seed(settings.seed)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.ffn,
        vocab_size=shape.vocab,
        tie_word_embeddings=False,
    )
    path = folder / "base"
    LlamaForCausalLM(config).to(getattr(torch, shape.dtype)).save_pretrained(path)
    _tokenizer(shape).save(str(path / "tokenizer.json"))
    return path


def make_adapters(settings: Settings, base: Path, folder: Path) -> dict[str, Path]:
    """Write one PEFT folder per adapter, on all seven linears, both matrices random.

    Returns the folders by adapter name.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    names = adapter_names(settings)
    for turn, rank in enumerate(settings.ranks):
        model = _adapted(base, rank)
        for name in names[turn :: len(settings.ranks)]:
            for weight in (p for p in model.parameters() if p.requires_grad):
                weight.data.normal_(std=ADAPTER_STD, generator=generator)
            model.save_pretrained(str(folder / name))
    return {name: folder / name for name in names}


def _adapted(base: Path, rank: int) -> PeftModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=list(LINEARS), task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    return adapted


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
