"""Whether the versions of one request can act on the same rows, and at which scales.

Known only when they are resident. Refuses to know kinds and where versions live.
"""

from __future__ import annotations

from collections.abc import Sequence

from rootstock_adapters.op import Prepared

from rootstock_server.engine.request import Adapter
from rootstock_server.errors import BadRequest


def check(adapters: Sequence[Adapter], prepared: Sequence[Prepared]) -> None:
    """`prepared[i]` is what `adapters[i]` does. Raises BadRequest naming the version at fault."""
    soft = [(each, what.virtual) for each, what in zip(adapters, prepared, strict=True)]
    soft = [(each, virtual) for each, virtual in soft if virtual]
    for each, _ in soft[1:]:
        raise BadRequest(
            f"version {each.version} is a soft prompt, and so is {soft[0][0].version}: a request "
            "takes one",
            param="adapters",
        )
    for each, _ in soft:
        if each.scale != 1:
            raise BadRequest(
                f"version {each.version} is a soft prompt, which has no scale but 1, "
                f"not {each.scale:g}",
                param="adapters",
            )
    if len(adapters) == 1 and adapters[0].scale == 1:
        return
    for each, what in zip(adapters, prepared, strict=True):
        if not what.combinable:
            raise BadRequest(
                f"version {each.version} rescales what others do: use it alone, at scale 1",
                param="adapters",
            )
