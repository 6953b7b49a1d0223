"""Pre-training from scratch: what it writes, that it learns, repeats itself, and fails in words."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from rootstock_cli.demo import world
from rootstock_trainer import pretrain_data, pretrain_loop
from rootstock_trainer.pretrain import pretrain
from rootstock_trainer.pretrain_baselines import CountingBaselines
from rootstock_trainer.pretrain_settings import PretrainError, PretrainReport, PretrainSettings
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

SHIPPED = Path(world.__file__).parent / "base"
TINY = PretrainSettings(
    parameters=60_000,
    vocabulary=400,
    context=64,
    batch_tokens=512,
    steps=120,
    learning_rate=1e-2,
    seed=3,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pretrain") / "world.jsonl"
    rows = itertools.islice(world.documents(5), 300)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def tiny(data: Path) -> tuple[Path, PretrainReport]:
    out = data.parent / "tiny"
    return out, pretrain([data], out, TINY)


def test_a_run_writes_a_folder_that_transformers_loads(tiny: tuple[Path, PretrainReport]) -> None:
    out, report = tiny
    model = AutoModelForCausalLM.from_pretrained(out, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    assert model.num_parameters() == report.parameters <= TINY.parameters
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {
        torch.bfloat16
    }
    written = PretrainReport.model_validate_json((out / "training.json").read_text())
    assert written == report
    assert (out / "SAMPLES.md").read_text().count("\n## ") == 20
    assert f"{report.model.nats_per_token:.3f}" in (out / "README.md").read_text()
    kept = [json.loads(line) for line in (out / "held-out.jsonl").read_text().splitlines()]
    assert 1 <= len(kept) <= report.held_out_documents
    assert [path.name for path in out.parent.iterdir() if path.name.startswith("tiny")] == ["tiny"]


def test_the_loss_falls_and_beats_the_unigram(tiny: tuple[Path, PretrainReport]) -> None:
    _, report = tiny
    assert report.curve[-1].loss < report.curve[0].loss - 1
    assert report.model.nats_per_token < report.unigram.nats_per_token
    assert report.trigram.nats_per_token < report.unigram.nats_per_token


def test_a_chat_is_rendered_with_roles_and_ends_where_the_assistant_ends(
    tiny: tuple[Path, PretrainReport],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny[0], local_files_only=True)
    turns = [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Hello."}]
    assert (
        tokenizer.apply_chat_template(turns, tokenize=False)
        == "<|bos|><|user|>Hi<|assistant|>Hello.<|eos|>"
    )
    asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<|bos|><|user|>Hi<|assistant|>"
    ids = tokenizer(asked, add_special_tokens=False)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and len(tokenizer.decode(ids)) == len(asked)


@pytest.mark.parametrize(
    "text", ["আমার কেটলি থেকে পানি পড়ছে।", "漏水了", "naïve €5 \n\t 🙂", "12345"]
)
def test_any_script_round_trips_through_the_tokenizer(
    tiny: tuple[Path, PretrainReport], text: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny[0], local_files_only=True)
    ids = tokenizer(text)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    data: Path, tmp_path: Path
) -> None:
    short = TINY.model_copy(update={"steps": 4, "context": 24})
    folders = [tmp_path / "first", tmp_path / "again", tmp_path / "other"]
    for folder, seed in zip(folders, (3, 3, 4), strict=True):
        pretrain([data], folder, short.model_copy(update={"seed": seed}))
    first, again, other = (load_file(folder / "model.safetensors") for folder in folders)
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(first[name], other[name])


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_nothing(
    data: Path, tmp_path: Path
) -> None:
    wild = TINY.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(PretrainError, match=r"the loss became (nan|inf) at step \d+: lower"):
        pretrain([data], tmp_path / "out", wild)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the data has no rows"),
        ("{oops\n", r"data\.jsonl, line 1: not JSON"),
        ('{"text": "fine"}\n{"question": "?"}\n', r"data\.jsonl, line 2: a row is"),
        ('{"messages": [{"role": "tool", "content": "x"}]}\n', r"line 1: a row is"),
        ('{"text": "one"}\n{"text": "two"}\n', "fewer than one context of 64"),
        ('{"text": "same"}\n' * 5, "no held-out document is left"),
    ],
)
def test_data_that_cannot_be_used_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(PretrainError, match=message):
        pretrain([path], tmp_path / "out", TINY)


def test_a_missing_file_a_full_folder_and_a_tiny_budget_are_named(
    data: Path, tmp_path: Path
) -> None:
    with pytest.raises(PretrainError, match="does not exist"):
        pretrain([tmp_path / "nowhere.jsonl"], tmp_path / "out", TINY)
    with pytest.raises(PretrainError, match="not an empty folder"):
        pretrain([data], data.parent, TINY)
    with pytest.raises(PretrainError, match="parameters: 1000 do not hold one layer"):
        pretrain([data], tmp_path / "out", TINY.model_copy(update={"parameters": 1000}))
    with pytest.raises(ValidationError, match="vocabulary"):
        PretrainSettings(vocabulary=100)


def test_the_trigram_is_the_witten_bell_formula_worked_by_hand() -> None:
    # Histories are (0 0), then (0 1): after them "2" follows twice and "3" once.
    training = [np.array(ids) for ids in ([0, 1, 2], [0, 1, 2], [0, 1, 3])]
    unigram, trigram = CountingBaselines(training, vocabulary=4).nats([np.array([0, 1, 2])])
    p1 = [0, (3 + 1) / 10, (2 + 1) / 10]
    assert unigram == pytest.approx(-math.log(p1[1]) - math.log(p1[2]))
    bigrams = (3 + 1 * p1[1]) / 4, (2 + 2 * p1[2]) / 5
    trigrams = (3 + 1 * bigrams[0]) / 4, (2 + 2 * bigrams[1]) / 5
    assert trigram == pytest.approx(-math.log(trigrams[0]) - math.log(trigrams[1]))


def test_a_document_never_seen_still_has_a_finite_trigram_loss() -> None:
    counted = CountingBaselines([np.array([0, 1, 2])], vocabulary=9)
    assert all(math.isfinite(total) for total in counted.nats([np.array([0, 7, 8, 8])]))


def test_one_pass_shows_whole_documents_alone_and_a_share_packed_to_the_full_context() -> None:
    chance = np.random.default_rng(0)
    documents = [np.full(length, length) for length in chance.integers(5, 30, size=400)]
    settings = TINY.model_copy(update={"packed_share": 0.25})
    batches = pretrain_data.batches(documents, settings, pad=0, chance=chance)
    assert all(batch.size <= settings.batch_tokens for batch in batches)
    alone = [row[row != 0] for batch in batches for row in batch if len(set(row) - {0}) == 1]
    assert len(alone) == 300
    assert all(len(row) == row[0] for row in alone)
    packed = [batch for batch in batches if any(len(set(row) - {0}) > 1 for row in batch)]
    assert packed and all(batch.shape[1] == settings.context for batch in packed)


@pytest.mark.parametrize("budget", [100_000, 4_000_000, 30_000_000])
def test_the_shape_fills_the_budget_without_passing_it(
    tiny: tuple[Path, PretrainReport], budget: int
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny[0], local_files_only=True)
    config = pretrain_loop.shape(TINY.model_copy(update={"parameters": budget}), tokenizer)
    with torch.device("meta"):
        size = AutoModelForCausalLM.from_config(config).num_parameters()
    assert 0.6 * budget < size <= budget


def test_the_shipped_base_is_small_and_beats_its_baselines_on_fresh_documents() -> None:
    assert (SHIPPED / "model.safetensors").stat().st_size <= 12 * 2**20
    report = PretrainReport.model_validate_json((SHIPPED / "training.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(SHIPPED, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED, local_files_only=True)
    assert 3_000_000 <= model.num_parameters() <= 6_000_000
    # Seed 2 is a world the training (seed 1) never saw.
    rows = list(itertools.islice(world.documents(2), 3000))
    documents = pretrain_data.encode(rows, tokenizer)
    fresh, counted = documents[:60], documents[60:]
    tokens = sum(len(ids) - 1 for ids in fresh)
    nats = pretrain_loop.held_out_nats(model, fresh) / tokens
    _, trigram = CountingBaselines(counted, len(tokenizer)).nats(fresh)
    assert nats < report.trigram.nats_per_token - 0.1
    assert nats < trigram / tokens - 0.1
    assert nats == pytest.approx(report.model.nats_per_token, abs=0.15)


def test_the_shipped_base_answers_a_customer_and_stops() -> None:
    model = AutoModelForCausalLM.from_pretrained(SHIPPED, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED, local_files_only=True)
    turns = [{"role": "user", "content": "My Norvik kettle leaks at the base. What can I do?"}]
    ids = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = model.generate(**ids, max_new_tokens=120, max_length=None, do_sample=False)[0]
    answer = tokenizer.decode(made[ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert made[-1] == tokenizer.eos_token_id
    assert "a worn seal" in answer and "tighten the ring" in answer
