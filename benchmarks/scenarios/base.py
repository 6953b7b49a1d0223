"""The base alone, at three concurrencies, against everybody who serves bases."""

from benchmarks.arms import Ours, Transformers, Vllm
from benchmarks.scenario import Cell, Judged, Scenario, Target

# The best of all that were tried, by concurrency.
BEST = {
    8: {"S": {"vllm": 466}, "M": {"vllm": 55}},
    16: {"S": {"vllm": 609}, "M": {"llama.cpp": 90}},
    32: {"S": {"llama.cpp": 702}},
}

SCENARIO = Scenario(
    name="base",
    says="The base only, at 8, 16 and 32 concurrent",
    cells=[
        Cell(
            label=f"base at {count}",
            arms=(Ours("base", count), Transformers(count), Vllm("base", count)),
            judged=(Judged("tokens_per_s", Target(at_least=1.3, aim=2), known=known),),
            load=("base", count),
        )
        for count, known in BEST.items()
    ],
)
