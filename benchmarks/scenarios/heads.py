"""What fifteen more heads on the same pass cost."""

from benchmarks.reading import Classify
from benchmarks.scenario import Cell, Judged, Scenario, Target

SCENARIO = Scenario(
    name="heads",
    says="Sixteen heads on one MiniLM pass, over one head",
    cells=[
        Cell(
            label=label,
            arms=(Classify(16, batch), Classify(1, batch)),
            judged=(Judged("seconds", Target(at_most=1.05)),),
        )
        for label, batch in (("one text", 1), ("16 texts", 16))
    ],
)
