"""MiniLM embeddings of texts of uneven lengths, one at a time and many."""

from benchmarks.reading import Embed
from benchmarks.scenario import Cell, Judged, Scenario, Target

SCENARIO = Scenario(
    name="embeddings",
    says="MiniLM embeddings of uneven lengths, at batch 1 and 64",
    cells=[
        Cell(
            label=f"batch {batch}",
            arms=(
                Embed("rootstock", batch),
                Embed("sentence-transformers", batch),
                Embed("onnxruntime", batch),
            ),
            judged=(Judged("texts_per_s", Target(at_least=1.0)),),
        )
        for batch in (1, 64)
    ],
)
