"""Method lora: what is exported is what was trained, under the names that a server expects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_trainer.base import Base
from rootstock_trainer.data import read_examples
from rootstock_trainer.methods.lora import LoraTraining
from rootstock_trainer.spec import LoraSettings
from rootstock_trainer.tokens import IGNORED, TokenRow, tokenize
from safetensors.torch import save
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

SETTINGS = LoraSettings(rank=4, alpha=8.0, learning_rate=1e-2)


@pytest.fixture
def base(decoder_folder: Path) -> Base:
    return Base(BaseCard.read(decoder_folder, "tiny-decoder"), decoder_folder)


@pytest.fixture
def rows(base: Base, chats_jsonl: Path) -> list[TokenRow]:
    examples = read_examples(chats_jsonl)
    return tokenize(examples, base.tokenizer(), base.card.context_length, chats_jsonl)


def by_hand(model: PreTrainedModel, card: BaseCard, run: LoraTraining) -> PreTrainedModel:
    """`model` with W + scaling · B · A written into its linears."""
    part = run.part()
    for module in card.linears:
        weight = model.get_submodule(f"{card.prefix}.{module}").weight
        down, up = (part.tensors[f"{module}.lora_{m}.weight"] for m in "AB")
        update = part.spec.scaling(module) * up @ down
        with torch.no_grad():
            weight += update.T if card.model_type == "gpt2" else update
    return model


def test_exported_tensors_reproduce_the_trained_models_logits(
    base: Base, rows: list[TokenRow]
) -> None:
    model = base.decoder()
    run = LoraTraining(model, base.card, SETTINGS, seed=0)
    list(run.run(rows))
    ids = torch.tensor([rows[0].ids])
    plain = base.decoder()
    with torch.no_grad():
        trained, untrained = model(ids).logits, plain(ids).logits
        merged = by_hand(plain, base.card, run)(ids).logits
    assert (trained - untrained).abs().max() > 0.1
    torch.testing.assert_close(merged, trained, atol=1e-4, rtol=0)


def test_exported_part_passes_its_specs_check(base: Base, rows: list[TokenRow]) -> None:
    run = LoraTraining(base.decoder(), base.card, SETTINGS, seed=0)
    list(run.run(rows[:8]))
    part = run.part()
    part.spec.check(save(part.tensors), base.card)
    assert set(part.spec.target_modules) == set(base.card.linears)
    assert {part.spec.scaling(module) for module in part.spec.target_modules} == {2.0}


def test_transposed_linears_are_trained_and_exported_the_usual_way_round(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=32)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    base = Base(BaseCard.read(tmp_path, "tiny-gpt2"), tmp_path)
    rows = [TokenRow([i, i + 1, 9, 1], [IGNORED, IGNORED, 9, 1]) for i in range(10, 30)]
    model = base.decoder()
    run = LoraTraining(model, base.card, SETTINGS, seed=0)
    before = run.mean_loss(rows)
    list(run.run(rows))
    assert run.mean_loss(rows) < before
    run.part().spec.check(save(run.part().tensors), base.card)
    ids = torch.tensor([rows[0].ids])
    with torch.no_grad():
        merged = by_hand(base.decoder(), base.card, run)(ids).logits
        torch.testing.assert_close(merged, model(ids).logits, atol=1e-4, rtol=0)


def test_untrained_run_is_the_base(base: Base, rows: list[TokenRow]) -> None:
    run = LoraTraining(base.decoder(), base.card, SETTINGS, seed=0)
    model, total, tokens = base.decoder(), 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = model(torch.tensor([row.ids])).logits[0].log_softmax(-1)
        for place, target in enumerate(row.targets[1:]):
            if target != IGNORED:
                total, tokens = total - logits[place, target].item(), tokens + 1
    assert run.mean_loss(rows) == pytest.approx(total / tokens, abs=1e-4)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(
    base: Base, rows: list[TokenRow]
) -> None:
    def bytes_of(seed: int) -> bytes:
        run = LoraTraining(base.decoder(), base.card, SETTINGS, seed)
        list(run.run(rows[:16]))
        return save(run.part().tensors)

    torch.manual_seed(5)
    once = bytes_of(0)
    torch.manual_seed(6)
    assert bytes_of(0) == once
    assert bytes_of(1) != once
