"""The demo's training: two heads on one stored embedding, and voices for the decoder.

Refuses to know how training works; what was trained before from the same rows is not trained again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from rootstock_cli.demo import world
from rootstock_cli.demo.stage import Stage, program
from rootstock_cli.failures import Refused
from rootstock_cli.options import LOCAL
from rootstock_cli.registry import SHOWN_DIGEST

if TYPE_CHECKING:
    from rootstock_registry import Job, Version
    from rootstock_trainer.spec import TrainSpec

SURVEY = Path(__file__).parent / "survey.csv"
FIRST_ROWS, BETTER_ROWS, CHEERFUL_ROWS = 80, 160, 160
# A base this small learns a voice from few rows with many, large steps.
VOICE_SETTINGS = {"learning_rate": 5e-3, "batch_size": 2}
POLL_S = 0.2


class Lesson(NamedTuple):
    """One job: what is learnt, by which method, on which base, from which rows."""

    name: str
    method: str
    base: str
    data: Path
    label_column: str = "label"


class Voices(NamedTuple):
    """The versions that speak: two of the formal one, the second the better."""

    formal: Version
    better: Version
    cheerful: Version


def train_heads(stage: Stage) -> list[Version]:
    """Both heads of the survey set; the second trains on the features that the first stored."""
    stage.chapter("Two heads, one stored embedding")
    stage.say(
        f"The survey set has {_lines(SURVEY) - 1} hand-written answers with two labels each. "
        "The frozen encoder reads every answer once; both heads train on what it stored."
    )
    return [
        _learn(stage, Lesson(label, "head", "minilm", SURVEY, label), promote=True)
        for label in ("sentiment", "type")
    ]


def train_voices(stage: Stage) -> Voices:
    """Two voices for the decoder, and a better version of the first, not yet in use."""
    stage.chapter("Two voices for one frozen decoder")
    stage.say(
        "formal goes to the sidecar, which the server started; cheerful trains here meanwhile. "
        "Then a better formal: it has seen more letters, and answers that name the order."
    )
    rows = {
        "formal-1": world.formal_replies(FIRST_ROWS, seed=11),
        "formal-2": world.formal_replies(BETTER_ROWS, seed=12, with_reference=True),
        "cheerful": world.cheerful_replies(CHEERFUL_ROWS, seed=13),
    }
    files = {
        name: _write(stage.home / "data" / f"{name}.jsonl", each) for name, each in rows.items()
    }
    lessons = {
        name: Lesson(name.partition("-")[0], "lora", "demo", file) for name, file in files.items()
    }
    job = _leave_to_sidecar(stage, lessons["formal-1"])
    cheerful = _learn(stage, lessons["cheerful"], promote=True)
    first = _wait_for(stage, job) if job else _trained(stage, lessons["formal-1"])
    if first is None:
        raise Refused("formal has vanished from the demo's registry; remove its home and try again")
    # On a later run the alias still points to the better version.
    first = stage.registry.promote(LOCAL, first.ref, "prod")
    better = _learn(stage, lessons["formal-2"], promote=False)
    return Voices(first, better, cheerful)


def _learn(stage: Stage, lesson: Lesson, *, promote: bool) -> Version:
    """The lesson's version: trained now in the foreground, or the one that is there already."""
    from rootstock_trainer.foreground import run_foreground

    version = _trained(stage, lesson)
    if version is None:
        spec = _spec(stage, lesson, promote=promote)
        version = run_foreground(stage.home, LOCAL, spec, stage.console)
        _say_figures(stage, version)
    else:
        stage.say(f"{version.ref} was trained from these very rows before: not trained again.")
        _say_figures(stage, version)
        if promote:
            version = stage.registry.promote(LOCAL, version.ref, "prod")
    if lesson.method == "head":
        more = f"--label-column {lesson.label_column}"
    else:
        more = " ".join(f"--set {name}={value}" for name, value in VOICE_SETTINGS.items())
    stage.remember(
        f"train {lesson.name}",
        f"{program('rootstock')} train --home {stage.home} --method {lesson.method}",
        f"--base {lesson.base} --data {lesson.data} {more} --as {lesson.name}",
    )
    return version


def _trained(stage: Stage, lesson: Lesson) -> Version | None:
    """The newest version made from the same rows on the same base."""
    from rootstock_trainer.data import dataset_digest, read_examples, read_labelled

    if lesson.method == "head":
        digest = dataset_digest(read_labelled(lesson.data, "text", lesson.label_column))
    else:
        digest = dataset_digest(read_examples(lesson.data))
    fingerprint = stage.cards[lesson.base].fingerprint
    for version in reversed(stage.registry.versions(LOCAL, lesson.name)):
        same_rows = version.manifest.lineage.dataset_digest == digest
        if same_rows and version.base_fingerprint == fingerprint:
            return version
    return None


def _spec(stage: Stage, lesson: Lesson, *, promote: bool) -> TrainSpec:
    from rootstock_trainer.spec import TrainSpec

    return TrainSpec.parse(
        {
            "method": lesson.method,
            "base": lesson.base,
            "base_path": str(stage.sources[lesson.base].path),
            "data": str(lesson.data),
            "name": lesson.name,
            "label_column": lesson.label_column,
            "promote": "prod" if promote else None,
            "hyperparameters": VOICE_SETTINGS if lesson.method == "lora" else {},
        }
    )


def _leave_to_sidecar(stage: Stage, lesson: Lesson) -> Job | None:
    """Queue the lesson and go on; None where it was learnt before."""
    version = _trained(stage, lesson)
    if version is not None:
        stage.say(f"{version.ref} was trained from these very rows before: not trained again.")
        _say_figures(stage, version)
        return None
    spec = _spec(stage, lesson, promote=True)
    job = stage.registry.submit_job(LOCAL, spec.model_dump(mode="json"))
    stage.say(f"{job.id} ({lesson.name}) is left to the sidecar.")
    return job


def _wait_for(stage: Stage, job: Job) -> Version:
    """Show how far the sidecar is with `job`, to its end. Raises Refused where it fails."""
    from rootstock_trainer.progress import Progress as Row

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=stage.console) as bar:
        line = bar.add_task("formal, in the sidecar", total=None)
        while (now := stage.registry.job(job.id)).finished_at is None:
            row = Row.from_row(now.progress)
            bar.update(
                line,
                description=f"formal, in the sidecar: {row.stage}",
                completed=row.done,
                total=row.total or None,
            )
            time.sleep(POLL_S)
        bar.update(line, description=f"formal, in the sidecar: {now.state}", total=1, completed=1)
    if now.version_digest is None:
        raise Refused(f"the sidecar could not train formal: {now.error}")
    version = stage.registry.version(now.version_digest)
    _say_figures(stage, version)
    return version


def _say_figures(stage: Stage, version: Version) -> None:
    figures = version.manifest.evaluation
    if version.manifest.lineage.method == "head":
        said = (
            f"accuracy {figures['accuracy']:.3f} on {figures['held_out_rows']:.0f} held-out rows "
            f"(always the commonest label: {figures['majority_accuracy']:.3f})"
        )
    else:
        said = (
            f"held-out loss {figures['base_eval_loss']:.2f} before, {figures['eval_loss']:.2f} "
            f"after, {figures['train_rows']:.0f} rows"
        )
    share = f"{figures['trained_parameters']:,.0f} parameters, {figures['base_share']:.2%} of base"
    stage.say(f"  {version.ref} {version.digest[:SHOWN_DIGEST]}: {said}; {share}")


def _write(file: Path, rows: list[world.Row]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


def _lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())
