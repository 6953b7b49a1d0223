"""Runs one reader over mutated inputs, and keeps what went wrong and how to see it again.

Input number n of a seed is always the same bytes: `Random(f"{seed}:{n}")` makes them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.fuzz.readers import READERS, Input, Refused

LIMIT_S = 1.0  # of processor time: another process's load is no finding
LIMIT_BYTES = 256 << 20
MOST_FINDINGS = 5


@dataclass
class Report:
    reader: str
    seed: int
    inputs: int = 0
    refused: int = 0
    accepted: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    grown: int = 0  # bytes over what was held when it began
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.reader}, seed {self.seed}: {self.inputs} inputs in {self.seconds:.0f} s "
            f"({self.inputs / max(self.seconds, 1e-9):.0f} a second), {self.refused} refused, "
            f"{self.accepted} accepted; slowest {self.slowest_s * 1000:.0f} ms of processor time, "
            f"{self.grown / 1e6:.0f} MB grown"
        )

    def add(self, finding: str) -> None:
        if len(self.findings) < MOST_FINDINGS:
            self.findings.append(finding)


def run(name: str, folder: Path, seed: int, inputs: int, seconds: float = 3600.0) -> Report:
    """At most so many `inputs`, for at most so many `seconds`; all sound ones before."""
    report = Report(name, seed)
    reader = READERS[name](folder)
    try:
        for sound in reader.seeds:
            reader.read(sound)  # imports and caches, and the proof that they are sound
        before, begun = _from_here(), time.monotonic()
        while report.inputs < inputs and time.monotonic() - begun < seconds:
            given = reader.input(Random(f"{seed}:{report.inputs}"))
            _one(report, reader.read, given)
            report.inputs += 1
        report.seconds = time.monotonic() - begun
        report.grown = _memory("VmHWM") - before
        for stray in reader.left_behind():
            report.add(f"left behind: {stray}")
    finally:
        reader.close()
    if report.grown > LIMIT_BYTES:
        report.add(f"{report.grown / 1e6:.0f} MB of memory")
    return report


def _one(report: Report, read: object, given: Input) -> None:
    assert callable(read)
    begun = time.process_time()
    try:
        read(given)
        report.accepted += 1
    except Refused:
        report.refused += 1
    except Exception as error:  # whatever it is, it is what we look for
        shown = repr(error).encode("ascii", "backslashreplace").decode()[:300]
        report.add(f"input {report.inputs} ({given.kind}): {shown}")
    took = time.process_time() - begun
    report.slowest_s = max(report.slowest_s, took)
    if took > LIMIT_S:
        report.add(f"input {report.inputs} ({given.kind}): {took:.1f} s")


def _from_here() -> int:
    """Forget the process's earlier peak; returns the bytes that it holds now."""
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    return _memory("VmRSS")


def _memory(field_name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field_name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field_name}")
