"""Which bases an adapter's folder was made for, where nobody has said: those that its tensors fit.

Refuses to choose where there are several, and to believe what the folder's config says of its base.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError

from rootstock_registry import adapterhub, peft_folder
from rootstock_registry.errors import RegistryError


def fitting(folder: Path, bases: Sequence[BaseCard]) -> list[BaseCard]:
    """Those of `bases` whose modules and sizes the tensors in `folder` have.

    Raises InvalidArtifact where its config cannot be read.
    """
    read = adapterhub.read if adapterhub.is_folder(folder) else peft_folder.read
    found = []
    for card in bases:
        try:
            for part in read(folder, card)[0]:
                part.spec.check(part.data, card)
        except (ArtifactError, RegistryError):
            continue
        found.append(card)
    return found
