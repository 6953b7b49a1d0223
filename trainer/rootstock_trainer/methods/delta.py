"""Methods `bitfit`, `norms`, `top-k` and `full`: the base's own parameters, kept as a difference.

BitFit: Ben Zaken et al., arXiv 2106.10199; top layers: Lee et al., arXiv 1911.03090. Refuses to
know rows, losses and where the part will be stored.
"""

from __future__ import annotations

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.delta.op import difference
from rootstock_adapters.delta.spec import DeltaSpec, Scope, canonical
from rootstock_wire.methods import (
    BitFitSettings,
    FullSettings,
    GradientSettings,
    NormsSettings,
    TopKSettings,
)
from torch import Tensor, nn
from transformers import PreTrainedModel

from rootstock_trainer.tuning import TrainedPart, Tuning, copied

SCOPES: dict[type[GradientSettings], Scope] = {
    BitFitSettings: "biases",
    NormsSettings: "norms",
    TopKSettings: "top-k",
    FullSettings: "full",
}


class DeltaTuning(Tuning):
    def __init__(self, model: PreTrainedModel, card: BaseCard, spec: DeltaSpec) -> None:
        super().__init__(model, card)
        self._spec = spec
        self._before = {
            name: parameter.detach().clone() if parameter.requires_grad else parameter
            for name, parameter in model.named_parameters(remove_duplicate=False)
        }

    def part(self) -> TrainedPart:
        now = dict(self.model.named_parameters(remove_duplicate=False))
        found: dict[str, Tensor] = difference(self._spec, self.card, now, self._before)
        return TrainedPart(self._spec, {name: copied(each) for name, each in found.items()})


def build(
    model: PreTrainedModel, card: BaseCard, settings: GradientSettings, seed: int
) -> DeltaTuning:
    """It begins as the base, so no seed is involved. Raises ArtifactError where the base has none
    of these parameters (a Llama has no biases)."""
    k = settings.k if isinstance(settings, TopKSettings) else None
    spec = DeltaSpec.of(card, SCOPES[type(settings)], k)
    own: dict[str, nn.Parameter] = {
        canonical(card.module_path(name)): parameter for name, parameter in model.named_parameters()
    }
    for name in spec.parameters:
        own[canonical(name)].requires_grad_(True)
    return DeltaTuning(model.eval(), card, spec)
