"""One caller at a time, with and without an adapter: how close to the memory's speed."""

from benchmarks.arms import Ours, Peft, Transformers, Vllm
from benchmarks.scenario import Cell, Judged, Scenario, Target

SCENARIO = Scenario(
    name="alone",
    says="One request alone, on the base and on one adapter",
    cells=[
        Cell(
            label="base alone",
            arms=(Ours("base", 1), Transformers(1), Vllm("base", 1)),
            judged=(
                Judged(
                    "tokens_per_s",
                    Target(at_least=0.8, aim=1.0),
                    known={"S": {"llama.cpp": 203}, "M": {"llama.cpp": 27}},
                ),
            ),
            load=("base", 1),
        ),
        Cell(
            label="one adapter alone",
            arms=(Ours("same", 1), Peft("same", 1), Vllm("same", 1)),
            judged=(
                Judged(
                    "tokens_per_s",
                    Target(at_least=0.9, aim=1.1),
                    known={"S": {"llama.cpp": 155}, "M": {"llama.cpp": 24}},
                ),
            ),
            load=("same", 1),
        ),
    ],
)
