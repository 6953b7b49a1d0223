"""One training job from its spec to its version: read, train, evaluate, publish.

Refuses to know processes and leases: a lost job's `report` raises, and its publish is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from rootstock_adapters.head.spec import HeadSpec
from rootstock_registry import Job, Lineage, NewPart, Registry, Version
from rootstock_registry.names import check_name
from safetensors.torch import save

from rootstock_trainer.base import Base
from rootstock_trainer.checkpoints import Checkpoints
from rootstock_trainer.data import dataset_digest, read_examples, read_labelled, split
from rootstock_trainer.errors import BadSpec
from rootstock_trainer.evaluate import accuracy, macro_f1, majority_share, perplexity
from rootstock_trainer.features import features_for
from rootstock_trainer.methods import head
from rootstock_trainer.progress import Progress, Report
from rootstock_trainer.spec import HeadSettings, LoraSettings, TrainSpec
from rootstock_trainer.tokens import tokenize


class Outcome(NamedTuple):
    """What a method made of the examples."""

    part: NewPart
    dataset_digest: str
    evaluation: Mapping[str, float]
    notes: tuple[str, ...] = ()


def train(
    spec: TrainSpec,
    registry: Registry,
    home: Path,
    job: Job,
    report: Report,
    checkpoints: Checkpoints | None = None,
) -> Version:
    """Run `job` to its version, which belongs to the job's tenant; the job ends with it.

    What goes down a gradient goes on from the last of `checkpoints`, and writes its own there.

    Raises TrainerError where the examples, the spec or the training are at fault, RegistryError
    where the version is refused (Conflict: the job was taken over, and nothing was registered).
    """
    check_name("adapter", spec.name)
    if spec.promote is not None:
        check_name("alias", spec.promote)
    report(Progress("reading"))
    base = Base(registry.base(spec.base), spec.base_path)
    base.check()
    made = (
        _head(spec, base, home, report)
        if spec.method == "head"
        else _lora(spec, base, report, checkpoints)
    )
    report(Progress("publishing", notes=made.notes))
    return registry.publish(
        job.tenant,
        spec.name,
        base.card,
        [made.part],
        lineage=Lineage(
            method=spec.method,
            dataset_digest=made.dataset_digest,
            job=job.id,
            seed=spec.seed,
            libraries=_libraries(spec.method),
        ),
        evaluation=made.evaluation,
        promote=spec.promote,
        job=job,
    )


def _head(spec: TrainSpec, base: Base, home: Path, report: Report) -> Outcome:
    rows = read_labelled(spec.data, spec.text_column, spec.label_column)
    texts, names = [row.text for row in rows], [row.label for row in rows]
    parts = split(texts, names, spec.seed)
    features = features_for(
        base,
        texts,
        home / "features",
        lambda done, total: report(Progress("embedding", done, total)),
    )
    report(Progress("training", notes=(features.note,)))
    labels = sorted(set(names))
    targets = torch.tensor([labels.index(name) for name in names])
    settings = HeadSettings.model_validate(spec.hyperparameters)
    weights = head.fit(features.rows[parts.train], targets[parts.train], len(labels), settings.c)
    predicted, actual = weights.predict(features.rows[parts.held_out]), targets[parts.held_out]
    card = base.card
    head_spec = HeadSpec(pooling=card.pooling, normalize=card.normalize, labels=tuple(labels))
    trained = weights.weight.numel() + weights.bias.numel()
    evaluation = {
        "accuracy": accuracy(predicted, actual),
        "macro_f1": macro_f1(predicted, actual, len(labels)),
        "majority_accuracy": majority_share(targets[parts.train], actual),
        "train_rows": float(len(parts.train)),
        "held_out_rows": float(len(parts.held_out)),
        **_sizes(trained, base),
    }
    part = NewPart(head_spec, save(weights._asdict()))
    return Outcome(part, dataset_digest(rows), evaluation, (features.note,))


def _lora(spec: TrainSpec, base: Base, report: Report, checkpoints: Checkpoints | None) -> Outcome:
    if base.card.task != "generate":
        raise BadSpec(
            f"method: lora trains decoders, and base {base.card.name} is an encoder "
            f"({base.card.model_type}): use method head"
        )
    # PEFT takes seconds to import, and heads do not need it.
    from rootstock_trainer.methods.lora import LoraTraining

    examples = read_examples(spec.data)
    rows = tokenize(examples, base.tokenizer(), base.card.context_length, spec.data)
    parts = split([example.row.question for example in examples], None, spec.seed)
    trained_on, held_out = ([rows[i] for i in side] for side in parts)
    settings = LoraSettings.model_validate(spec.hyperparameters)
    run = LoraTraining(base.decoder(), base.card, settings, spec.seed)
    report(Progress("evaluating the base"))
    before = run.mean_loss(held_out)
    if checkpoints is not None:
        checkpoints.about = dataset_digest(examples)
    for step in run.run(trained_on, checkpoints):
        report(Progress("training", step.done, step.total, step.loss))
    report(Progress("evaluating"))
    after = run.mean_loss(held_out)
    part = run.part()
    evaluation = {
        "eval_loss": after,
        "perplexity": perplexity(after),
        "base_eval_loss": before,
        "base_perplexity": perplexity(before),
        "train_rows": float(len(parts.train)),
        "held_out_rows": float(len(parts.held_out)),
        **_sizes(sum(tensor.numel() for tensor in part.tensors.values()), base),
    }
    return Outcome(NewPart(part.spec, save(part.tensors)), dataset_digest(examples), evaluation)


def _sizes(trained: int, base: Base) -> dict[str, float]:
    share = trained / base.parameter_count()
    return {"trained_parameters": float(trained), "base_share": share}


def _libraries(method: str) -> dict[str, str]:
    names = ["rootstock-server", "torch", "transformers", "tokenizers", "safetensors"]
    if method == "lora":
        names.append("peft")
    return {name: version(name) for name in names}
