"""Many more adapters than slots, asked by a power law, against as many as there are slots."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.arms import Ours
from benchmarks.scenario import Arm, Cell, Judged, Scenario, Target, Work
from benchmarks.stage import Server, Stage
from benchmarks.workload import ADAPTERS

CONCURRENCY = 16


@dataclass(frozen=True)
class Registered:
    """As many adapters as the shape has for this, and room for ADAPTERS of them."""

    name: str = "many adapters"

    def open(self, stage: Stage) -> Work:
        server = Server(adapters=stage.shape.many, slots=ADAPTERS)
        return Ours("power law", CONCURRENCY, server).open(stage)


ARMS: Sequence[Arm] = (Registered(), Ours("power law", CONCURRENCY, name="32 adapters"))

SCENARIO = Scenario(
    name="many",
    says="1,000 registered adapters and 32 slots under power-law traffic, over 32 adapters",
    cells=[
        Cell(
            label="power law at 16",
            arms=tuple(ARMS),
            judged=(Judged("tokens_per_s", Target(at_least=0.8)),),
        )
    ],
)
