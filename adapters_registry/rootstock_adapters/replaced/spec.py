"""Which parameters a part replaces, and their shapes. Not a kind: kinds may have such fields.

Refuses to know torch and the parameters' values.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from rootstock_adapters.base_card import SHARED, BaseCard
from rootstock_adapters.delta.spec import canonical, parameters_of
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.spec import Shapes


def replaceable(base: BaseCard) -> dict[str, Shapes]:
    """By module: every parameter that the server computes with, as the loaded model names it."""
    found: dict[str, Shapes] = defaultdict(dict)
    for name in parameters_of(base, "full") if base.parameters else ():
        known = canonical(name)
        found[known.rpartition(".")[0]][known] = base.parameters[name]
    # An embedding that two modules share is neither's own: PEFT would save a copy of each.
    found.pop(SHARED, None)
    for module, size in (base.embeddings | base.output).items():
        found[module].setdefault(f"{module}.weight", size)  # a tied one is not stored
    return dict(found)


def replaced_shapes(
    kind: str, base: BaseCard, modules: Iterable[str], biases: Iterable[str] = ()
) -> Shapes:
    """Every parameter of each of `modules` (`modules_to_save`), the bias of each of `biases`.

    Raises ArtifactError for a module without them.
    """
    there, shapes = replaceable(base), Shapes()
    for module in modules:
        if module not in there:
            raise ArtifactError(
                f"{kind}: modules_to_save: base {base.name} runs no module {module} with weights"
            )
        shapes |= there[module]
    for module in biases:
        name = f"{module}.bias"
        if name not in there.get(module, {}):
            raise ArtifactError(f"{kind}: biases: base {base.name} has no {name}")
        shapes[name] = there[module][name]
    return shapes
