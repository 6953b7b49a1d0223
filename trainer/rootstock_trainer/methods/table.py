"""The table of methods that train by gradient: the one place where a new one is named.

A method's file has `build(model, card, settings, seed) -> Tuning`. Refuses to know what they do;
PEFT takes seconds to import, so a file is imported only when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from rootstock_adapters.base_card import BaseCard
from rootstock_wire.methods import GradientSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from rootstock_trainer.tuning import Tuning

FILES = {
    "lora": "lora",
    "rslora": "lora",
    "dora": "lora",
    "ia3": "ia3",
    "soft_prompt": "soft_prompt",
    "prefix": "soft_prompt",
    "bottleneck": "bottleneck",
    "bitfit": "delta",
    "norms": "delta",
    "top-k": "delta",
    "full": "delta",
}


def build(
    method: str, model: PreTrainedModel, card: BaseCard, settings: GradientSettings, seed: int
) -> Tuning:
    """`model` with `method` in force, untrained. Raises BadSpec or ArtifactError where the base
    cannot take it."""
    module = import_module(f"rootstock_trainer.methods.{FILES[method]}")
    tuning: Tuning = module.build(model, card, settings, seed)
    return tuning
