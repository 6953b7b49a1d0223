"""`make gpu`: prove the GPU backend on this machine's GPU, then measure it at Llama-3.1-8B's shape.

Runs with torch, transformers, peft, safetensors and numpy alone. A part that breaks is printed and
counted, and the others still run: the two halves in processes of their own, for a GPU's context
does not outlive a bad memory access. Results are written after every part.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_report

RESULTS = Path(__file__).parent / "results"
MINUTES = {"prove": 3.0, "measure": 4.5}  # after these no part begins


class Run:
    """The parts of one run, what they found, and what broke."""

    def __init__(self, folder: Path, half: str) -> None:
        self._folder, self._half, self._begun = folder, half, time.monotonic()
        self.deadline = self._begun + 60 * MINUTES[half]
        self.results: dict[str, Any] = {"origin": origin(half), "failed": []}

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self._begun:5.0f} s] {text}", flush=True)

    def part(self, name: str, work: Callable[[], Any]) -> Any:
        """Run `work`, keep what it returns under `name`; None where it broke or time is up."""
        found = None
        if time.monotonic() > self.deadline:
            self._broken(name, "no time was left for it")
        else:
            self.say(f"{name} …")
            try:
                found = work()
                if found is not None:
                    self.results[name] = found
            except Exception as error:
                traceback.print_exc()
                self._broken(name, f"{type(error).__name__}: {error}"[:300])
        gpu_report.write(self._folder, self._half, self.results)
        return found

    def _broken(self, name: str, why: str) -> None:
        self.results["failed"].append(f"{name}: {why}")
        self.say(f"BROKEN: {name}: {why}")

    def prove(self) -> None:
        """Every kernel, then whole mixed batches, against plain torch on the CPU."""
        from rootstock_server.backends.triton.recordings import Recordings

        from benchmarks import gpu_batches, gpu_parity

        table: list[dict[str, Any]] = []
        self.results["parity"] = table
        device = torch.device("cuda")
        checks: dict[str, Callable[[], float]] = {}
        for dtype, kind in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
            for name, check in gpu_parity.KERNELS.items():
                checks[f"{name}, {kind}"] = lambda c=check, d=dtype: c("cuda", d)
            for word, make in (
                ("launched", lambda: None),
                ("recorded", lambda: Recordings(device)),
            ):
                checks[f"mixed batches, {word}, {kind}"] = lambda m=make, d=dtype: (
                    gpu_batches.mixed_batches("cuda", d, m())
                )

        def proven(name: str) -> None:
            torch.manual_seed(0)
            error = checks[name]()
            table.append({"check": name, "relative_error": error})
            self.say(f"  agrees within {error:.1e}")

        for name in checks:
            self.part(name, lambda n=name: proven(n))

    def measure(self) -> None:
        from rootstock_server.backends.triton.backend import Triton

        from benchmarks import gpu_measure as measure
        from benchmarks.gpu_model import LLAMA_8B, Bench, Shape

        speed = self.part("bandwidth", lambda: measure.read_bandwidth("cuda", 4))
        if speed is None:
            return
        self.say(f"  reads {speed['best'] / 1e12:.2f} TB/s")
        made: list[Bench] = []
        self.part("base and adapters", lambda: made.append(Bench(Shape(LLAMA_8B), Triton())))
        if not made:
            return
        bench = made[0]
        cells = self.results["decode"] = []

        def decode() -> None:
            for cell in measure.decode_cells(bench, speed["best"], self.say, self.deadline - 60):
                cells.append(cell)
                self.say(
                    f"  batch {cell['rows']:3}, {cell['adapters']:2} adapters: "
                    f"{cell['step_ms']:.2f} ms, {cell['over_floor']:.2f} of the floor, "
                    f"{cell['of_base']:.3f} of base ({cell['of_ceiling']:.3f} of the ceiling)"
                )
            if (failure := bench.base.backend.recordings.failure) is not None:
                raise RuntimeError(f"decode steps were not recorded: {failure}")

        self.part("decode steps", decode)
        self.part("profile", lambda: [
            {"rows": rows, "adapters": adapters, **line}
            for rows, adapters in ((1, 0), (8, 8), (64, 64))
            for line in measure.profile(bench, rows, adapters)
        ])  # fmt: skip
        self.part("prompts", lambda: measure.prompts(bench))
        self.part("unrecorded", lambda: measure.unrecorded(bench))


def origin(half: str) -> dict[str, Any]:
    """What must be known to repeat a measurement: command, device, versions."""
    versions = {"python": platform.python_version()}
    for name in ("torch", "triton", "transformers", "peft", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "absent"
    return {
        "command": shlex.join(["python", "-m", "benchmarks.gpu", "--only", half]),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions,
    }


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--only", choices=sorted(MINUTES), help="one half of the work")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was proven, nothing was measured")
        return 2
    if options.only is None:
        command = [sys.executable, "-m", "benchmarks.gpu", *arguments, "--only"]
        return max(subprocess.run([*command, half]).returncode for half in MINUTES)
    run = Run(options.out, options.only)
    run.say(f"{run.results['origin']}")
    run.part(options.only, run.prove if options.only == "prove" else run.measure)
    for line in gpu_report.verdicts(run.results.get("decode", [])):
        run.say(line)
    for line in run.results["failed"]:
        run.say(f"BROKEN: {line}")
    return 1 if run.results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
