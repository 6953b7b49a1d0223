"""Sixteen callers, sixteen different adapters, against everybody who serves them."""

from benchmarks.arms import Ours, Peft, Vllm
from benchmarks.scenario import Cell, Judged, Scenario, Target

SCENARIO = Scenario(
    name="all-different",
    says="All-different adapters at 16 concurrent",
    cells=[
        Cell(
            label="all different at 16",
            arms=(Ours("mixed", 16), Peft("mixed", 16), Vllm("mixed", 16)),
            judged=(
                Judged(
                    "tokens_per_s",
                    Target(at_least=4, aim=6),
                    known={
                        "S": {"llama.cpp": 164, "vllm": 111, "peft": 109},
                        "M": {"peft": 25},
                    },
                ),
            ),
            load=("mixed", 16),
        )
    ],
)
