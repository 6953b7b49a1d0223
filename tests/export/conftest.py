"""A tiny BERT with its own WordPiece tokenizer, a registry, heads, and a reference in plain torch.

The reference stands where a running server's answers go: it is Hugging Face's model, one text at a
time, with poolings written here and not taken from the product.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.spec import HeadSpec
from rootstock_registry import Lineage, NewPart, Registry, Version
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, BertConfig, BertModel, PreTrainedModel

CONTEXT = 48
WIDTH = 32
WORDS = [
    "great",
    "service",
    "thank",
    "you",
    "no",
    "still",
    "waiting",
    "the",
    "blue",
    "kettle",
    "leaks",
]
PIECES = [*"abcdefghijklmnopqrstuvwxyz0123456789.,!?[]/<>", *(f"##{c}" for c in "aeinorst")]

ServerAnswers = Callable[[list[str]], list[dict[str, dict[str, float]]]]


def write_base(folder: Path, make: Callable[[int], PreTrainedModel]) -> Path:
    """`make` gets the vocabulary's size. The tokenizer's file cuts and pads to 8 tokens."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *PIECES]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    torch.manual_seed(7)
    make(len(vocabulary)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def bert(vocabulary: int) -> PreTrainedModel:
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=CONTEXT, initializer_range=0.3,
    )  # fmt: skip
    return BertModel(config)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("tiny"), bert)


@pytest.fixture(scope="session")
def make_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    return lambda make: write_base(tmp_path_factory.mktemp("base"), make)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(tmp_path_factory.mktemp("home"))


Publish = Callable[[Path, str, HeadSpec], Version]


@pytest.fixture(scope="session")
def publish_head(registry: Registry) -> Publish:
    """Publish a head of random weights, large enough to differ and too small to saturate."""

    def publish(base: Path, name: str, spec: HeadSpec) -> Version:
        card = BaseCard.read(base, base.name.strip("_").lower())
        registry.add_base(card)
        generator = torch.Generator().manual_seed(len(name))
        scale = 3.0 if spec.normalize else 3.0 / card.hidden_size**0.5
        tensors = {
            "weight": torch.randn(len(spec.labels), card.hidden_size, generator=generator) * scale,
            "bias": torch.randn(len(spec.labels), generator=generator) / 4,
        }
        part = NewPart(spec=spec, data=safetensors.torch.save(tensors))
        return registry.publish("local", name, card, [part], lineage=Lineage(method="head"))

    return publish


@pytest.fixture(scope="session")
def reference(registry: Registry) -> Callable[[Path, list[Version]], ServerAnswers]:
    """Hugging Face and plain torch, unbatched, in the place of a server."""

    def answers_of(base: Path, versions: list[Version]) -> ServerAnswers:
        model = AutoModel.from_pretrained(base, attn_implementation="eager").eval()
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True

        @torch.no_grad()
        def answer(text: str) -> dict[str, dict[str, float]]:
            ids = torch.tensor([tokenizer.encode(text).ids])
            hidden = model(input_ids=ids).last_hidden_state[0]
            return {version.name: head(version, hidden) for version in versions}

        def head(version: Version, hidden: torch.Tensor) -> dict[str, float]:
            (part,) = version.manifest.parts
            tensors = safetensors.torch.load(registry.blobs.get(part.blob))
            how = {"cls": hidden[0], "last": hidden[-1], "mean": hidden.mean(0)}
            pooled = how[part.config["pooling"]]
            if part.config["normalize"]:
                pooled = pooled / pooled.norm()
            probs = torch.softmax(tensors["weight"] @ pooled + tensors["bias"], 0)
            return dict(zip(part.config["labels"], probs.tolist(), strict=True))

        return lambda texts: [answer(text) for text in texts]

    return answers_of
