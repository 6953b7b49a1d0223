"""Which layer of a base a module path belongs to.

Refuses to know what the modules compute.
"""

from __future__ import annotations

from collections.abc import Collection

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError


def inside_layer(path: str) -> tuple[int, str] | None:
    """(layer, path inside it): `h.3.mlp.c_proj` → (3, `mlp.c_proj`); None outside the layers."""
    parts = path.split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    # T5 numbers the sublayers of a layer, too; ALBERT the layers of a group.
    return (int(parts[numbers[0]]), ".".join(parts[numbers[-1] + 1 :])) if numbers else None


def check_layers(card: BaseCard, layers: Collection[int]) -> None:
    """Raises ArtifactError for a layer that the base lacks or does not have for itself."""
    own = {inside[0] for path in card.linears if (inside := inside_layer(path))}
    if own != set(range(card.layers)):
        raise ArtifactError(f"layers of base {card.name} share their weights: none can be chosen")
    if strangers := sorted(set(layers) - own):
        raise ArtifactError(
            f"base {card.name} has no layer {strangers[0]}: it has 0 to {card.layers - 1}"
        )
