"""One training job from its spec to its version: read, train, evaluate, publish.

Refuses to know processes and leases: a lost job's `report` raises, and its publish is refused.
"""

from __future__ import annotations

import re
from importlib.metadata import version

from rootstock_registry import Job, Lineage, Registry, Version, gates
from rootstock_registry.names import check_name
from rootstock_registry.provenance import Dataset

from rootstock_trainer import head_run
from rootstock_trainer.base import Base
from rootstock_trainer.data import Rows, open_rows
from rootstock_trainer.outcome import Made, Outcome, Place, Telling, artifact_bytes
from rootstock_trainer.progress import Report
from rootstock_trainer.spec import TrainSpec

WITH_PEFT = frozenset({"lora", "rslora", "dora", "ia3", "soft_prompt", "prefix"})


def train(
    spec: TrainSpec,
    registry: Registry,
    job: Job,
    report: Report,
    place: Place,
) -> Version:
    """Run `job` to its version, which belongs to the job's tenant; the job ends with it.

    What goes down a gradient goes on from the last of the place's checkpoints, and writes its own
    there; with a member it shares its passes through the base with other runs.
    A head of several label columns is a version for each, named after its column; the first is
    the job's. Raises TrainerError where the examples, the spec or the training are at fault,
    RegistryError where the version is refused (Conflict: the job was taken over, and nothing was
    registered).
    """
    names = _names(spec)
    tell = Telling(report)
    tell("reading")
    base = Base(registry.base(spec.base), spec.base_path)
    base.check()
    rows = open_rows(spec)
    for note in rows.notes:
        tell.note(note)
    outcome = _run(spec, base, rows, place, tell)
    tell("publishing")
    registry.evidence.describe_dataset(job.tenant, _described(rows, outcome.dataset_digest))
    lineage = Lineage(
        method=spec.method,
        dataset_digest=outcome.dataset_digest,
        job=job.id,
        seed=spec.seed,
        libraries=_libraries(spec.method),
    )

    def publish(made: Made, name: str, own: bool) -> Version:
        return registry.publish(
            job.tenant,
            name,
            base.card,
            made.parts,
            lineage=lineage,
            evaluation={**made.evaluation, **artifact_bytes(made.parts)},
            promote=spec.promote,
            gates=gates.parse(spec.require),
            job=job,
            ends_job=own,
        )

    first, *others = zip(outcome.made, names, strict=True)
    for made, name in others:
        publish(made, name, own=False)
    return publish(*first, own=True)


def _run(spec: TrainSpec, base: Base, rows: Rows, place: Place, tell: Telling) -> Outcome:
    if spec.method == "head":
        return head_run.run(spec, base, rows, place.home, tell)
    # transformers takes seconds to import, and heads on stored features do not need it.
    if spec.method in ("prompt", "few-shot"):
        from rootstock_trainer import prompt_run

        return prompt_run.run(spec, base, rows, tell)
    from rootstock_trainer import gradient_run

    return gradient_run.run(spec, base, rows, place, tell)


def _described(rows: Rows, digest: str) -> Dataset:
    text, pair, labels = rows.data.columns
    # Rows to generate from have their own fields, which no column names.
    columns = () if rows.data.task == "generate" else (text, *([pair] if pair else []), *labels)
    return Dataset(digest, len(rows.data.keys), columns)


def _names(spec: TrainSpec) -> list[str]:
    """The adapters' names, one for each label column, all of them checked."""
    if spec.promote is not None:
        check_name("alias", spec.promote)
    check_name("adapter", spec.name)
    columns = spec.label_columns
    if len(columns) == 1:
        return [spec.name]
    names = [f"{spec.name}-{re.sub(r'[^a-z0-9._-]+', '-', each.lower())}" for each in columns]
    return [check_name("adapter", name) for name in names]


def _libraries(method: str) -> dict[str, str]:
    names = ["rootstock-server", "torch", "transformers", "tokenizers", "safetensors"]
    if method in WITH_PEFT:
        names.append("peft")
    return {name: version(name) for name in names}
