"""Packing, bfloat16 and recomputed activations: the same training by another way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rootstock_adapters.architectures import ARCHITECTURES
from rootstock_adapters.base_card import BaseCard
from rootstock_trainer.base import Base
from rootstock_trainer.errors import BadSpec
from rootstock_trainer.gradient import GradientTraining
from rootstock_trainer.methods import table
from rootstock_trainer.objectives import Answers
from rootstock_trainer.tokens import IGNORED, TokenRow, TokenStore, collate, pack
from rootstock_trainer.tuning import Untouched
from rootstock_wire.methods import GradientSettings, LoraSettings, parse_settings
from transformers import AutoConfig, AutoModelForCausalLM

# OPT makes its mask without looking at positions.
UNPACKABLE = "opt"
DECODERS = sorted(
    name for name, each in ARCHITECTURES.items() if each.task == "generate" and name != UNPACKABLE
)
SIZES = json.loads((Path(__file__).parents[1] / "server" / "tiny_bases.json").read_text())


def rows(count: int = 12) -> list[TokenRow]:
    """Rows of uneven lengths, the last third of each an answer."""
    made = []
    for number in range(count):
        ids = [10 + (7 * number + 13 * place) % 100 for place in range(4 + 3 * (number % 5))]
        asked = len(ids) * 2 // 3
        made.append(TokenRow(ids, [IGNORED] * asked + ids[asked:]))
    return made


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return tiny(tmp_path, "llama")


def tiny(folder: Path, model_type: str) -> Base:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **SIZES[model_type])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return Base(BaseCard.read(folder, model_type), folder)


def training(base: Base, **values: object) -> GradientTraining:
    settings = parse_settings("lora", {"rank": 2, "n_epochs": 1, "batch_size": 4} | values)
    assert isinstance(settings, LoraSettings)
    tuning = table.build("lora", base.decoder(), base.card, settings, 0)
    return GradientTraining(tuning, Answers(), settings, 0)


def trained(base: Base, **values: object) -> list[torch.Tensor]:
    run, store = training(base, **values), TokenStore(rows())
    list(run.run(store, range(len(store))))
    return [parameter.detach().clone() for parameter in run.parameters]


@pytest.mark.parametrize("model_type", DECODERS)
@torch.inference_mode()
def test_a_packed_rows_loss_is_that_of_its_rows_apart(tmp_path: Path, model_type: str) -> None:
    base = tiny(tmp_path, model_type)
    run = GradientTraining(
        Untouched(base.decoder(), base.card), Answers(), GradientSettings(), seed=0
    )
    together, targets = run.loss(pack(rows()))
    apart = [run.loss(collate([row])) for row in rows()]
    assert targets == sum(count for _, count in apart)
    alone = torch.stack([loss for loss, _ in apart]).sum()
    assert abs(together - alone) / targets < 1e-5


def test_a_base_whose_packed_rows_read_each_other_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match="packed rows read each other on base opt"):
        trained(tiny(tmp_path, UNPACKABLE), packing=True)


def test_packed_training_ends_where_padded_training_ends(base: Base) -> None:
    for packed, padded in zip(trained(base, packing=True), trained(base), strict=True):
        torch.testing.assert_close(packed, padded, atol=1e-4, rtol=1e-3)


def test_recomputed_activations_change_nothing(base: Base) -> None:
    again = trained(base, gradient_checkpointing=True)
    for one, other in zip(again, trained(base), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_bfloat16_learns_alike_and_keeps_its_parameters_in_fp32(base: Base) -> None:
    half, whole = trained(base, bf16=True), trained(base)
    assert {parameter.dtype for parameter in half} == {torch.float32}
    assert any(not torch.equal(one, other) for one, other in zip(half, whole, strict=True))
    moved = torch.cat([each.flatten() for each in half])
    expected = torch.cat([each.flatten() for each in whole])
    assert torch.nn.functional.cosine_similarity(moved, expected, dim=0) > 0.95


def test_virtual_tokens_are_not_packed(base: Base) -> None:
    settings = parse_settings("soft_prompt", {"num_virtual_tokens": 2, "packing": True})
    assert isinstance(settings, GradientSettings)
    tuning = table.build("soft_prompt", base.decoder(), base.card, settings, 0)
    with pytest.raises(BadSpec, match="virtual tokens stand before each row"):
        GradientTraining(tuning, Answers(), settings, 0)
