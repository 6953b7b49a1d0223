"""What every method that trains by gradient makes of a base: a model, its trained parameters, and
the part that they become.

Refuses to know any method by name, rows and losses.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.layers import check_layers, inside_layer
from rootstock_adapters.spec import PartSpec
from torch import Tensor, nn
from transformers import PreTrainedModel

from rootstock_trainer.errors import BadSpec
from rootstock_trainer.tokens import TokenBatch


class TrainedPart(NamedTuple):
    """What will be published: tensors fp32, named as the spec says."""

    spec: PartSpec
    tensors: dict[str, Tensor]


class Tuning(ABC):
    """One method on one loaded base, which it changes in place.

    `model` answers as the base's own class does, with the method in force. It is never in training
    mode: dropout that a base's config asks for belongs to its pre-training, and a rerun must be
    the same run. `virtual_tokens` stand before a row's own in what it computes.
    """

    virtual_tokens = 0

    def __init__(self, model: nn.Module, card: BaseCard) -> None:
        self.model, self.card = model, card

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained, always in the same order."""
        return [p for p in self.model.parameters() if p.requires_grad]

    @abstractmethod
    def part(self) -> TrainedPart:
        """The part as it is now, with copies of the parameters."""

    def logits(self, batch: TokenBatch) -> Tensor:
        """[B, L, V]: of the rows' own tokens, the decoder's where there is one of its own."""
        # A cache would be kept for nothing, and hides from transformers that rows are packed.
        out: Tensor = self.model(**_inputs(batch), use_cache=False).logits
        return out[:, -batch.ids.shape[1] :]

    def hidden(self, batch: TokenBatch) -> Tensor:
        """[B, L, D]: the last hidden states of the rows' own tokens, as a server's heads read."""
        cache = {} if self.card.task == "encode" else {"use_cache": False}
        out: Tensor = self._backbone()(**_inputs(batch), **cache).last_hidden_state
        return out[:, -batch.ids.shape[1] :]

    def _backbone(self) -> nn.Module:
        if not isinstance(self.model, PreTrainedModel):
            raise TypeError("a method that wraps the base must say where its hidden states are")
        backbone: nn.Module = self.model.base_model
        return backbone


class Untouched(Tuning):
    """The base as it is, to be measured beside the methods."""

    def part(self) -> TrainedPart:
        raise RuntimeError("nothing was trained, so there is no part")


def _inputs(batch: TokenBatch) -> dict[str, Tensor]:
    if batch.source is not None and batch.source_mask is not None:
        return {
            "input_ids": batch.source,
            "attention_mask": batch.source_mask,
            "decoder_input_ids": batch.ids,
        }
    if batch.positions is not None:
        return {"input_ids": batch.ids, "position_ids": batch.positions}
    assert batch.mask is not None
    return {"input_ids": batch.ids, "attention_mask": batch.mask}


def parameter_count(spec: PartSpec, card: BaseCard) -> int:
    """Numbers in the part that `spec` describes: the formula, without a tensor."""
    return sum(math.prod(shape) for shape in spec.tensor_shapes(card).values())


def prefix_of(model: nn.Module, card: BaseCard) -> str:
    """What stands before a backbone's module paths in `model`."""
    bare = isinstance(model, PreTrainedModel) and model.base_model is model
    return "" if bare or not card.prefix else f"{card.prefix}."


def layer_numbers(layers: str | Sequence[int], card: BaseCard) -> list[int] | None:
    """The layers that a setting means; None for all.

    Raises BadSpec for one that the base lacks. A base whose layers share their weights has one set
    of them: `top-half` is then all.
    """
    if layers == "all":
        return None
    if isinstance(layers, str):
        half = layers == "top-half"
        count = math.ceil(card.layers / 2) if half else int(layers.removeprefix("top"))
        if half and _shares_layers(card):
            return None
        if count > card.layers:
            raise BadSpec(f"layers: {layers}, and base {card.name} has {card.layers} layers")
        return list(range(card.layers - count, card.layers))
    check_layers(card, layers)
    return sorted(set(layers))


def _shares_layers(card: BaseCard) -> bool:
    own = {inside[0] for path in card.linears if (inside := inside_layer(path))}
    return own != set(range(card.layers))


def targeted(
    names: str | Sequence[str], layers: str | Sequence[int], card: BaseCard
) -> tuple[str, ...]:
    """The linears that PEFT's `target_modules` mean on `card`, in the given layers.

    A name is a whole path or its end after a dot. Raises BadSpec for one that means nothing.
    """
    wanted = layer_numbers(layers, card)
    inside = {path: inside_layer(path) for path in card.linears}
    there = [
        path
        for path, at in inside.items()
        if wanted is None or (at is not None and at[0] in wanted)
    ]
    if isinstance(names, str):
        return tuple(there)
    for name in names:
        if not any(_ends(path, name) for path in there):
            known = sorted({path.rpartition(".")[2] for path in card.linears})
            raise BadSpec(
                f"target_modules: base {card.name} has no linear {name} in these layers "
                f"(it has {', '.join(known)})"
            )
    return tuple(path for path in there if any(_ends(path, name) for name in names))


def _ends(path: str, name: str) -> bool:
    return f".{path}".endswith(f".{name}")


def copied(tensor: Tensor) -> Tensor:
    """fp32, on the CPU, contiguous, and nobody else's."""
    return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
