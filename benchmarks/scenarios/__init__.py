"""One scenario per file, by its name, in the order of the published table.

Refuses to know how they are run.
"""

from benchmarks.scenario import Scenario
from benchmarks.scenarios import (
    all_different,
    alone,
    base,
    cold,
    decode_step,
    embeddings,
    enabled,
    heads,
    http,
    int8,
    many,
    serving,
    sidecar_beside_serving,
)

SCENARIOS: dict[str, Scenario] = {
    room.SCENARIO.name: room.SCENARIO
    for room in (
        serving, all_different, base, enabled, decode_step, alone, int8, cold, many, heads,
        embeddings, http, sidecar_beside_serving,
    )
}  # fmt: skip
# The default set: without what makes a thousand adapters, and without what `serving` shows, too.
SHORT = tuple(name for name in SCENARIOS if name not in ("many", "all-different", "base", "alone"))
