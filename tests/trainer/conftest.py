"""Two tiny bases in Hugging Face folders, a real registry that knows them, and example files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Job, Registry
from rootstock_trainer.spec import TrainSpec
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tokenizers.normalizers import BertNormalizer
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINGS = ["kettle", "lamp", "chair", "mug", "clock", "rug", "fan", "desk", "shelf", "radio"]
GOOD = ["lovely", "great", "bright", "fine", "superb"]
BAD = ["broken", "dull", "late", "awful", "cracked"]


def reviews() -> list[tuple[str, str]]:
    rows = [(f"the {thing} is {word}", "good") for thing in THINGS for word in GOOD]
    return rows + [(f"the {thing} is {word}", "bad") for thing in THINGS for word in BAD]


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "is", *THINGS, *GOOD, *BAD]
    tokenizer = Tokenizer(
        models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def decoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    special = ["<|bos|>", "<|eos|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for text, _ in reviews()], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token="<|eos|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def registry(home: Path, encoder_folder: Path, decoder_folder: Path) -> Registry:
    opened = Registry(home)
    opened.add_base(BaseCard.read(encoder_folder, "tiny-encoder"))
    opened.add_base(BaseCard.read(decoder_folder, "tiny-decoder"))
    return opened


@pytest.fixture
def claimed(registry: Registry) -> Callable[[TrainSpec], Job]:
    def submit_and_claim(spec: TrainSpec) -> Job:
        job = registry.submit_job("local", spec.model_dump(mode="json"))
        held = registry.claim_job("the test", 60.0, job.id)
        assert held is not None
        return held

    return submit_and_claim


@pytest.fixture
def reviews_csv(tmp_path: Path) -> Path:
    file = tmp_path / "reviews.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "about"])
        for text, label in reviews():
            writer.writerow([text, label, "round" if "mug" in text or "rug" in text else "other"])
    return file


@pytest.fixture
def chats_jsonl(tmp_path: Path) -> Path:
    """Answers that can be learnt: they repeat the thing of the question."""
    file = tmp_path / "chats.jsonl"
    rows: list[dict[str, Any]] = [
        {
            "messages": [
                {"role": "user", "content": f"the {thing} is {word}"},
                {"role": "assistant", "content": f"{thing} noted"},
            ]
        }
        for thing in THINGS
        for word in GOOD
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def head_spec(encoder_folder: Path, reviews_csv: Path) -> TrainSpec:
    return TrainSpec(
        method="head",
        base="tiny-encoder",
        base_path=encoder_folder,
        data=reviews_csv,
        name="mood",
    )


@pytest.fixture
def lora_spec(decoder_folder: Path, chats_jsonl: Path) -> TrainSpec:
    return TrainSpec(
        method="lora",
        base="tiny-decoder",
        base_path=decoder_folder,
        data=chats_jsonl,
        name="clerk",
    )
