"""What base rows pay for adapters that others use: nothing, it should be."""

from dataclasses import dataclass

from benchmarks.arms import Ours
from benchmarks.scenario import Cell, Judged, Scenario, Target, Work
from benchmarks.stage import Server, Stage
from benchmarks.workload import Run


@dataclass(frozen=True)
class AfterAdapters(Ours):
    """Base rows on a server whose engine holds every adapter of the warm round."""

    def open(self, stage: Stage) -> Work:
        base = super().open(stage)
        mixed = Ours("mixed", self.concurrency, self.server).open(stage)

        def work(round_number: int) -> Run:
            if round_number == 0:
                mixed(0)
            return base(round_number)

        return work


SCENARIO = Scenario(
    name="enabled",
    says="Base rows on an engine with adapters, over one without",
    cells=[
        Cell(
            label="base at 16",
            arms=(
                AfterAdapters("base", 16, name="with 32 adapters"),
                Ours("base", 16, Server(adapters=0), name="without adapters"),
            ),
            judged=(Judged("tokens_per_s", Target(at_least=0.98)),),
            load=("base", 16),
        )
    ],
)
