"""Method `bottleneck`: small layers behind sublayers, in our own modules: PEFT has none.

Houlsby et al., arXiv 1902.00751; Pfeiffer et al., arXiv 2005.00247. The mathematics is the served
one (`rootstock_adapters.bottleneck.op`). Refuses to know rows, losses and where the part goes.
"""

from __future__ import annotations

import math

import torch
from rootstock_adapters.activations import ACTIVATIONS
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.bottleneck.op import Bottleneck
from rootstock_adapters.bottleneck.spec import BottleneckSpec, sublayer_outputs
from rootstock_wire.methods import BottleneckSettings
from torch import Tensor, nn
from transformers import PreTrainedModel

from rootstock_trainer.tuning import TrainedPart, Tuning, copied, layer_numbers, prefix_of


class BottleneckLayer(nn.Module):
    """The parameters of one layer. N is its size, D the width of what it stands behind."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], nonlinearity: str) -> None:
        super().__init__()
        self.down, self.up = nn.Module(), nn.Module()
        for name, shape in shapes.items():
            linear, _, parameter = name.partition(".")
            self.get_submodule(linear).register_parameter(
                parameter, nn.Parameter(torch.zeros(shape))
            )
        # As torch begins a linear; `up` stays zero, so that the layer begins as the base.
        nn.init.kaiming_uniform_(self.down.get_parameter("weight"), a=math.sqrt(5))
        self._act = ACTIVATIONS[nonlinearity]

    def forward(self, y: Tensor) -> Tensor:
        """[…, D] → […, D]."""
        layer = Bottleneck(
            self.down.get_parameter("weight"),
            self.down.get_parameter("bias"),
            self.up.get_parameter("weight"),
            self.up.get_parameter("bias"),
            self._act,
        )
        return layer.after(y, y)


class BottleneckTuning(Tuning):
    def __init__(self, model: PreTrainedModel, card: BaseCard, spec: BottleneckSpec) -> None:
        super().__init__(model, card)
        self._spec, self._layers = spec, nn.ModuleDict()
        shapes = spec.tensor_shapes(card)
        for path in spec.target_modules:
            own = {
                name.removeprefix(f"{path}."): shape
                for name, shape in shapes.items()
                if name.startswith(f"{path}.")
            }
            layer = BottleneckLayer(own, spec.nonlinearity)
            self._layers[path.replace(".", "/")] = layer
            linear = model.get_submodule(f"{prefix_of(model, card)}{path}")
            linear.register_forward_hook(lambda _, __, y, layer=layer: layer(y))

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self._layers.parameters())

    def part(self) -> TrainedPart:
        tensors = {
            name.replace("/", "."): copied(parameter)
            for name, parameter in self._layers.named_parameters()
        }
        return TrainedPart(self._spec, tensors)


def build(
    model: PreTrainedModel, card: BaseCard, settings: BottleneckSettings, seed: int
) -> BottleneckTuning:
    """It begins as the base, at weights drawn by `seed`."""
    layers = layer_numbers(settings.layers, card)
    size = settings.size or max(1, round(card.hidden_size / settings.reduction_factor))
    spec = BottleneckSpec(
        placement=settings.placement,
        size=size,
        nonlinearity=settings.nonlinearity,
        target_modules=sublayer_outputs(card, settings.placement, layers),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BottleneckTuning(model.eval(), card, spec)
