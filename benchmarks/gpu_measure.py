"""Times of decode steps and prompts, arms interleaved, beside the bytes that they must read.

Refuses to know how results are shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch

from benchmarks.gpu_model import Bench

ROUNDS, STEPS = 5, 30
Say = Callable[[str], None]


def read_bandwidth(device: str, gibibytes: float) -> dict[str, float]:
    """Bytes per second that plain reads and copies reach; `best` is the ceiling used here."""
    values = int(gibibytes * (1 << 30)) // 4
    source = torch.randn(values, device=device)
    target = torch.empty_like(source)
    ways = {
        "sum": (lambda: source.sum(), source.nbytes),
        "amax": (lambda: source.amax(), source.nbytes),
        "copy": (lambda: target.copy_(source), 2 * source.nbytes),
    }
    found = {}
    for name, (work, nbytes) in ways.items():
        work()
        seconds = min(_seconds(work, device) for _ in range(8))
        found[name] = nbytes / seconds
    found["best"] = max(found.values())
    return found


def decode_cells(
    bench: Bench, bandwidth: float, say: Say, deadline: float
) -> Iterator[dict[str, Any]]:
    """One cell per batch and number of adapters, each beside the base in the same rounds."""
    for rows in bench.shape.batches:
        arms = [0, *(n for n in bench.shape.batches if n <= min(rows, bench.shape.adapters))]
        for adapters in arms:
            begun = time.monotonic()
            for _ in range(3):
                bench.decode(rows, adapters).tolist()
            say(f"batch {rows}, {adapters} adapters: ready in {time.monotonic() - begun:.1f} s")
        times: dict[int, list[float]] = {n: [] for n in arms}
        for _ in range(ROUNDS):
            if time.monotonic() > deadline:
                break
            for adapters in arms:
                times[adapters].append(_step_seconds(bench, rows, adapters))
        if not times[arms[-1]]:
            raise TimeoutError(f"no time was left for batch {rows}")
        for adapters in arms:
            yield _cell(bench, rows, adapters, times, bandwidth)


def _step_seconds(bench: Bench, rows: int, adapters: int) -> float:
    """Median wall-clock time of a whole step, from its rows to its tokens in ordinary memory."""
    seconds = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        bench.decode(rows, adapters).tolist()
        seconds.append(time.perf_counter() - begun)
    return median(seconds)


def _cell(
    bench: Bench, rows: int, adapters: int, times: dict[int, list[float]], bandwidth: float
) -> dict[str, Any]:
    seconds = median(times[adapters])
    nbytes = bench.weight_bytes + rows * bench.row_bytes + adapters * bench.adapter_bytes
    pairs = zip(times[0], times[adapters], strict=False)
    ceiling = bench.weight_bytes / (bench.weight_bytes + adapters * bench.adapter_bytes)
    of_base = median(base / own for base, own in pairs)
    return {
        "rows": rows,
        "adapters": adapters,
        "step_ms": seconds * 1e3,
        "rounds_ms": [t * 1e3 for t in times[adapters]],
        "tokens_per_s": rows / seconds,
        "floor_ms": nbytes / bandwidth * 1e3,
        "over_floor": seconds / (nbytes / bandwidth),
        "of_base": of_base,
        "ceiling": ceiling,
        "of_ceiling": of_base / ceiling,
    }


def prompts(bench: Bench) -> list[dict[str, Any]]:
    """Tokens per second of four prompts in one step: the base, one adapter, four."""
    found = []
    for adapters in (0, 1, 4):
        bench.prefill(adapters).tolist()
        times = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            bench.prefill(adapters).tolist()
            times.append(time.perf_counter() - begun)
        tokens = 4 * bench.shape.prompt
        found.append({"adapters": adapters, "tokens_per_s": tokens / median(times)})
    return found


def unrecorded(bench: Bench) -> list[dict[str, Any]]:
    """What decode steps cost where they are launched kernel by kernel."""
    backend: Any = bench.base.backend
    kept, backend.recordings = backend.recordings, None
    try:
        cells = []
        for rows, adapters in ((1, 0), (8, 8)):
            bench.decode(rows, adapters).tolist()
            cells.append(
                {
                    "rows": rows,
                    "adapters": adapters,
                    "step_ms": _step_seconds(bench, rows, adapters) * 1e3,
                }
            )
        return cells
    finally:
        backend.recordings = kept


def profile(bench: Bench, rows: int, adapters: int) -> list[dict[str, Any]]:
    """Where the device's time of one step goes: its kernels, the longest first."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    steps = 5
    bench.decode(rows, adapters).tolist()
    with profiler(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as run:
        for _ in range(steps):
            bench.decode(rows, adapters).tolist()
    kernels = [e for e in run.key_averages() if "CUDA" in str(e.device_type)]
    kernels.sort(key=lambda event: -event.self_device_time_total)
    return [
        {
            "kernel": event.key[:90],
            "calls_per_step": event.count / steps,
            "us_per_step": event.self_device_time_total / steps,
        }
        for event in kernels[:20]
    ]


def _seconds(work: Callable[[], Any], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begun
