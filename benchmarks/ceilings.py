"""What the machine allows: the least time that bytes and operations take, and ratios of bytes.

Every weight is read once a step, every row's adapter and keys and values once, and each of them
takes part in one multiplication and addition per row. Refuses to know who comes how close.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import torch

from benchmarks.calibrate import Calibration
from benchmarks.workload import RANKS, Mode, Shape


@dataclass(frozen=True)
class Sizes:
    """Values of a model that a step touches, and of one adapter. `width` is bytes per value."""

    layers: int
    head: int
    adapter: float
    width: int

    @classmethod
    def of(cls, shape: Shape) -> Sizes:
        per_layer = sum(inputs * outputs for inputs, outputs in shape.linears.values())
        widths = sum(sum(sizes) for sizes in shape.linears.values())
        return cls(
            layers=per_layer * shape.layers,
            head=shape.hidden * shape.vocab,
            adapter=sum(RANKS) / len(RANKS) * widths * shape.layers,
            width=getattr(torch, shape.dtype).itemsize,
        )


def step_ratio(shape: Shape, rows: int) -> float:
    """R(N) = W / (W + N·a): a step of base rows over one of N different adapters, by bytes."""
    sizes = Sizes.of(shape)
    weights = sizes.layers + sizes.head
    return weights / (weights + rows * sizes.adapter)


def tokens_per_s(shape: Shape, mode: Mode, rows: int, found: Calibration) -> float:
    """Of a closed loop of `rows`: prompts and answers, each at the faster of the two limits."""
    sizes = Sizes.of(shape)
    adapters = {"base": 0, "same": 1}.get(mode, rows)
    step = _step_s(shape, sizes, rows, adapters, found)
    adapted = sizes.adapter if adapters else 0
    prompt = 2 * (shape.prompt_tokens * (sizes.layers + adapted) + sizes.head)
    return (
        rows
        * shape.new_tokens
        / (
            # The first token comes out of the prompt's pass.
            (shape.new_tokens - 1) * step + rows * prompt / found.operations_per_s
        )
    )


def step_s(shape: Shape, mode: Mode, rows: int, found: Calibration) -> float:
    """Seconds of one decode step of `rows`, at the slower of what bytes and operations take."""
    adapters = {"base": 0, "same": 1}.get(mode, rows)
    return _step_s(shape, Sizes.of(shape), rows, adapters, found)


def _step_s(shape: Shape, sizes: Sizes, rows: int, adapters: int, found: Calibration) -> float:
    seen = shape.prompt_tokens + shape.new_tokens / 2  # tokens of a row, halfway
    kv = 2 * shape.layers * shape.kv_width * seen * rows
    weights = sizes.layers + sizes.head
    read = sizes.width * (weights + adapters * sizes.adapter + kv)
    adapted = sizes.adapter if adapters else 0
    attended = 4 * shape.layers * shape.hidden * seen
    operations = rows * (2 * (weights + adapted) + attended)
    return max(read / found.bytes_per_s, operations / found.operations_per_s)


def typical(calibrations: list[Calibration]) -> Calibration:
    """The median of what the machine could do around the runs."""
    return Calibration(
        median(each.bytes_per_s for each in calibrations),
        median(each.operations_per_s for each in calibrations),
    )
