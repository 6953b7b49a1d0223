"""The compare command: heads on a tiny encoder, trained and compared, from file to picture."""

from __future__ import annotations

import csv
import json
import socket
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from rootstock_cli.comparing_cost import Cost, _asks, _priced
from rootstock_registry import Registry
from rootstock_wire.comparisons import Entry
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

Command = Callable[..., CompletedProcess[str]]
GOOD, BAD = ["lovely", "great", "bright", "fine"], ["broken", "dull", "late", "awful"]
THINGS = ["kettle", "lamp", "chair", "mug", "clock"]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny-encoder"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "is", *THINGS, *GOOD, *BAD]
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    file = tmp_path / "Mood of reviews.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for thing in THINGS:
            writer.writerows([f"the {thing} is {word}", "good"] for word in GOOD)
            writer.writerows([f"the {thing} is {word}", "bad"] for word in BAD)
    return file


def test_methods_are_trained_compared_written_and_kept(
    rootstock: Command, encoder: Path, reviews: Path, home: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as taken:  # as by the user's own server
        monkeypatch.setenv("ROOTSTOCK_PORT", str(taken.getsockname()[1]))
        ran = rootstock(
            "compare", "--base", encoder, "--data", reviews, "--methods", "head,head:c=0.001",
            "--out", tmp_path / "out", "--json",
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    by_label = {entry["label"]: entry for entry in told["entries"]}
    assert by_label["head"]["versions"] == ["mood-of-reviews-head:1"]
    assert by_label["head"]["tokens_per_s"] > 0, ran.stderr
    assert by_label["head"]["quality"]["mean"] >= by_label["head:c=0.001"]["quality"]["mean"]
    assert told["recommendation"]["choice"] in by_label
    assert "2 of 2: head:c=0.001, seed 0" in ran.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "table.md", "table.json", "picture.png",
    }  # fmt: skip
    registry = Registry(home)
    kept = registry.comparison("local", told["id"])
    assert kept.state == "succeeded" and kept.result is not None
    assert kept.result["entries"] == told["entries"]
    registry.close()


def test_what_cannot_be_compared_is_refused_before_anything_is_queued(
    rootstock: Command, encoder: Path, reviews: Path, home: Path
) -> None:
    common = ("compare", "--base", encoder, "--data", reviews, "--methods")
    unknown = rootstock(*common, "heed")
    assert unknown.returncode == 2 and "there is no method 'heed'" in unknown.stderr
    wrong = rootstock(*common, "lora:rank=0")
    assert wrong.returncode == 2 and "hyperparameters.rank" in wrong.stderr
    assert Registry(home).jobs("local") == []


def test_rows_are_asked_as_they_would_be_served(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    longer = [turns[0], turns[1] | {"weight": 0}, *turns]
    spoken = {"prompt": "a", "source_lang": "en", "target_lang": "fr"}
    rows = [{"messages": longer}, spoken | {"completion": "b"}, {"prompt": "x" * 5000}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _asks(file, "text") == [{"messages": [*turns, turns[0]]}, spoken]
    labelled = tmp_path / "rows.csv"
    labelled.write_text("said,label\n" + "".join(f"{i},x\n" for i in range(10)))
    assert _asks(labelled, "said") == [{"input": text} for text in ("0", "2", "5", "7")]


def test_costs_stand_beside_the_bases_and_gaps_stay_gaps() -> None:
    costs = {"base": Cost(4.0, 100.0), "lora": Cost(5.5, 90.0)}
    lora, base, gone = (
        _priced(Entry(label=label, state="measured"), costs) for label in ("lora", "base", "full")
    )
    assert (lora.added_latency_ms, lora.tokens_per_s) == (1.5, 90.0)
    assert (base.added_latency_ms, base.tokens_per_s) == (0.0, 100.0)
    assert (gone.added_latency_ms, gone.tokens_per_s) == (None, None)
