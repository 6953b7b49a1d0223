"""Method lora: what is exported is what was trained, under the names that a server expects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.lora.spec import LoraSpec
from rootstock_trainer.base import Base
from rootstock_trainer.data import read_examples
from rootstock_trainer.errors import BadSpec
from rootstock_trainer.gradient import GradientTraining
from rootstock_trainer.methods.lora import build
from rootstock_trainer.objectives import Answers
from rootstock_trainer.tokens import IGNORED, TokenRow, TokenStore, tokenize
from rootstock_trainer.tuning import TrainedPart, Untouched
from rootstock_wire.methods import GradientSettings, LoraSettings
from safetensors.torch import save
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

SETTINGS = LoraSettings(rank=4, alpha=8.0, learning_rate=1e-2)


@pytest.fixture
def base(decoder_folder: Path) -> Base:
    return Base(BaseCard.read(decoder_folder, "tiny-decoder"), decoder_folder)


@pytest.fixture
def store(base: Base, chats_jsonl: Path) -> TokenStore:
    examples = read_examples(chats_jsonl)
    return TokenStore(tokenize(examples, base.tokenizer(), base.card.context_length, chats_jsonl))


def training(
    model: PreTrainedModel, card: BaseCard, seed: int = 0, settings: LoraSettings = SETTINGS
) -> GradientTraining:
    return GradientTraining(build(model, card, settings, seed), Answers(), settings, seed)


def by_hand(model: PreTrainedModel, card: BaseCard, part: TrainedPart) -> PreTrainedModel:
    """`model` with W + scaling · B · A written into its linears."""
    assert isinstance(part.spec, LoraSpec)
    for module in card.linears:
        weight = model.get_submodule(f"{card.prefix}.{module}").weight
        down, up = (part.tensors[f"{module}.lora_{m}.weight"] for m in "AB")
        update = part.spec.scaling(module) * up @ down
        with torch.no_grad():
            weight += update.T if card.model_type == "gpt2" else update
    return model


def test_exported_tensors_reproduce_the_trained_models_logits(
    base: Base, store: TokenStore
) -> None:
    model, plain = base.decoder(), base.decoder()
    run = training(model, base.card)
    list(run.run(store, range(len(store))))
    (part,) = run.parts()
    part.spec.check(save(part.tensors), base.card)
    ids = torch.tensor([store[0].ids])
    with torch.no_grad():
        trained, untrained = model(ids).logits, plain(ids).logits
        merged = by_hand(plain, base.card, part)(ids).logits
    assert (trained - untrained).abs().max() > 0.1
    torch.testing.assert_close(merged, trained, atol=1e-4, rtol=0)


def test_transposed_linears_are_trained_and_exported_the_usual_way_round(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    base = Base(BaseCard.read(tmp_path, "tiny-gpt2"), tmp_path)
    rows = [TokenRow([i, i + 1, 9, 1], [IGNORED, IGNORED, 9, 1]) for i in range(10, 30)]
    store, model = TokenStore(rows), base.decoder()
    run = training(model, base.card)
    before = run.mean_loss(store, range(20))
    list(run.run(store, range(20)))
    assert run.mean_loss(store, range(20)) < before
    (part,) = run.parts()
    part.spec.check(save(part.tensors), base.card)
    ids = torch.tensor([rows[0].ids])
    with torch.no_grad():
        merged = by_hand(base.decoder(), base.card, part)(ids).logits
        torch.testing.assert_close(merged, model(ids).logits, atol=1e-4, rtol=0)


def test_untrained_run_is_the_base(base: Base, store: TokenStore) -> None:
    rows = range(len(store))
    plain = GradientTraining(
        Untouched(base.decoder(), base.card), Answers(), GradientSettings(), seed=0
    )
    expected = plain.mean_loss(store, rows)
    assert training(base.decoder(), base.card).mean_loss(store, rows) == pytest.approx(expected)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(
    base: Base, store: TokenStore
) -> None:
    def bytes_of(seed: int) -> bytes:
        run = training(base.decoder(), base.card, seed)
        list(run.run(store, range(16)))
        return save(run.parts()[0].tensors)

    torch.manual_seed(5)
    once = bytes_of(0)
    torch.manual_seed(6)
    assert bytes_of(0) == once
    assert bytes_of(1) != once


def test_targets_are_named_as_peft_names_them_in_the_layers_asked_for(base: Base) -> None:
    settings = LoraSettings(rank=2, target_modules=["q_proj", "mlp.up_proj"], layers="top1")
    part = build(base.decoder(), base.card, settings, 0).part()
    assert isinstance(part.spec, LoraSpec)
    assert set(part.spec.target_modules) == {"layers.1.self_attn.q_proj", "layers.1.mlp.up_proj"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (LoraSettings(target_modules=["query"]), "has no linear query in these layers"),
        (LoraSettings(layers="top3"), "top3, and base tiny-decoder has 2 layers"),
    ],
)
def test_targets_that_mean_nothing_are_refused(
    base: Base, settings: LoraSettings, words: str
) -> None:
    with pytest.raises(BadSpec, match=words):
        build(base.decoder(), base.card, settings, 0)
