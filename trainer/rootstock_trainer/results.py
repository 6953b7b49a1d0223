"""What a run looked like: its losses as a table and, where matplotlib is installed, as a picture.

Read back from the job's events, so that a run that was taken up again is shown whole. Refuses to
know what was trained.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rootstock_registry import Job, Registry

from rootstock_trainer.inputs import job_folder

PURPOSE = "fine-tune-results"
COLUMNS = ("step", "train_loss", "valid_loss")


def keep_results(registry: Registry, home: Path, job: Job) -> list[str]:
    """Write `metrics.csv` and `loss.png` beside the job, and as files of its tenant; their ids."""
    rows = metrics(registry, job)
    if not rows:
        return []
    folder = job_folder(home, job.id)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = {"metrics.csv": _table(rows)}
    picture = curve(rows, f"{job.spec.get('method', 'job')} {job.spec.get('name', '')}")
    if picture is not None:
        made["loss.png"] = picture
    ids = []
    for name, data in made.items():
        (folder / name).write_bytes(data)
        ids.append(registry.add_file(job.tenant, f"{job.id}-{name}", PURPOSE, data).id)
    return ids


def metrics(registry: Registry, job: Job) -> list[Mapping[str, Any]]:
    """The steps that events tell of, in order; of one that was done twice, the last telling."""
    told = {
        event.data["step"]: event.data
        for event in reversed(registry.job_events(job.tenant, job.id))
        if event.data and "train_loss" in event.data
    }
    return [told[step] for step in sorted(told)]


def curve(rows: Sequence[Mapping[str, Any]], title: str) -> bytes | None:
    """A PNG of the losses over the steps; None where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for column, label in (("train_loss", "training"), ("valid_loss", "validation")):
        points = [(row["step"], row[column]) for row in rows if row.get(column) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="." * (len(points) < 20))
    axes.set(title=title, xlabel="step", ylabel="loss")
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
