"""Where the time of an adapter's first use goes: disk, hash, checks, layout, slot.

`python -m benchmarks.loading` writes `loading_S.md`. Refuses to know any other system.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import torch
from rootstock_adapters.kinds import parse_spec
from rootstock_adapters.op import Prepared, prepare
from rootstock_cli.bench.origin import LIBRARIES, origin
from rootstock_registry import Registry
from rootstock_server.adapters.slots import Slots
from rootstock_server.engine import worker
from safetensors.torch import load

from benchmarks.cold import forget_pages
from benchmarks.stage import TENANT, Stage
from benchmarks.workload import ADAPTERS, SHAPES, Shape, adapter_names

MAX_RANK = 64
T = TypeVar("T")


class Clock:
    """Times by step's name; `timed` runs one."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    def timed(self, name: str, work: Callable[[], T]) -> T:
        begun = time.perf_counter()
        found = work()
        self.seconds[name].append(time.perf_counter() - begun)
        return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loading", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(arguments)
    shape = SHAPES[options.shape]
    with (
        tempfile.TemporaryDirectory(prefix="rootstock-loading-") as name,
        Stage(shape, Path(name), Path(name)) as stage,
    ):
        clock, size = _loads(stage)
    text = _page(shape, clock, size)
    (options.out / f"loading_{shape.name}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _loads(stage: Stage) -> tuple[Clock, float]:
    """Every adapter once, alone, from a disk whose pages are not in memory; their mean bytes."""
    torch.set_num_threads(1)  # as the loader's thread has
    registry = Registry(stage.home(ADAPTERS))
    base, _ = worker.load(stage.base, stage.card.model_dump_json(), "auto")
    slots = Slots(base.groups, MAX_RANK, base.backend, base.dtype)
    forget_pages(stage.home(ADAPTERS) / "blobs")
    clock, sizes = Clock(), []
    for name in adapter_names(ADAPTERS):
        (part,) = registry.resolve(TENANT, name).manifest.parts
        spec = parse_spec(part.kind, part.config)
        data = clock.timed("disk and hash", lambda p=part: registry.blobs.get(p.blob))
        clock.timed("of which the hash", lambda d=data: hashlib.sha256(d).digest())
        clock.timed("checks", lambda s=spec, d=data: s.check(d, stage.card))
        prepared = clock.timed(
            "tensors", lambda s=spec, d=data: Prepared().merge(prepare(s, load(d)))
        )
        bound = prepared.bind(base.place)
        packed = clock.timed("layout", lambda b=bound: slots.pack(b.linears))
        clock.timed("slot", lambda p=packed: slots.place(p))
        sizes.append(len(data))
    registry.close()
    return clock, sum(sizes) / len(sizes)


def _page(shape: Shape, clock: Clock, size: float) -> str:
    command = f"python -m benchmarks.loading --shape {shape.name}"
    facts = origin([command], LIBRARIES)
    machine, versions = facts["machine"], facts["versions"]
    lines = [
        f"| {name} | {median(took) * 1e3:.2f} | {max(took) * 1e3:.2f} |"
        for name, took in clock.seconds.items()
    ]
    return "\n".join(
        [
            f"# An adapter's way into a slot, shape {shape.name}, in milliseconds",
            "",
            f"`{command}`: {ADAPTERS} adapters of {size / 2**20:.1f} MiB, each once, alone, its",
            "file dropped from memory before. All but the last step run on a thread beside the",
            "engine's; under load they share its cores, and the first token waits for the next",
            "step on top.",
            "",
            "| step | median | most |",
            "| --- | ---: | ---: |",
            *lines,
            "",
            f"{machine['cpu']}, {machine['cores']} cores; torch {versions['torch']}.",
            "",
        ]
    )


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    sys.exit(main(sys.argv[1:]))
