"""The classifier of PEFT's SEQ_CLS and TOKEN_CLS folders as a `head` part, and back.

How transformers' task models classify is in one table: what each pools, and which linears follow.
Refuses to know the method that tuned the backbone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rootstock_adapters.base_card import BaseCard, fingerprint, weight_files
from rootstock_adapters.errors import ArtifactError, BaseError
from rootstock_adapters.file import TensorHeader, pack, read_header
from rootstock_adapters.head.spec import Activation, HeadPooling, HeadSpec
from rootstock_adapters.kinds import parse_spec

from rootstock_registry.errors import InvalidArtifact, WrongBase
from rootstock_registry.peft_record import PREFIX, Record
from rootstock_registry.records import NewPart

Task = Literal["SEQ_CLS", "TOKEN_CLS"]
Tensors = dict[str, tuple[TensorHeader, bytes]]
# PEFT names both in the modules_to_save of every classifier; a model has one of them.
ALWAYS_NAMED = ("classifier", "score")
_CLASSES: dict[str, Task] = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
}


class Form(NamedTuple):
    """`output(activation(inner(z)))` with `z` pooled; module paths in the task model."""

    pooling: HeadPooling
    output: str
    inner: str | None = None
    activation: Activation = "tanh"
    bias: bool = True

    @property
    def modules(self) -> dict[str, str]:
        """Our tensors' prefix → the module that has them in the task model."""
        return {"": self.output} | ({"hidden.": self.inner} if self.inner else {})


_LAST = Form("last", "score", bias=False)
_TOKEN, _TOKEN_SCORE = Form("none", "classifier"), Form("none", "score")
FORMS: dict[tuple[Task, str], Form] = {
    ("SEQ_CLS", "bert"): Form("cls", "classifier", "bert.pooler.dense"),
    ("SEQ_CLS", "albert"): Form("cls", "classifier", "albert.pooler"),
    ("SEQ_CLS", "distilbert"): Form("cls", "classifier", "pre_classifier", "relu"),
    ("SEQ_CLS", "roberta"): Form("cls", "classifier.out_proj", "classifier.dense"),
    ("SEQ_CLS", "electra"): Form("cls", "classifier.out_proj", "classifier.dense", "gelu"),
    **{
        ("SEQ_CLS", model): _LAST
        for model in (
            "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi", "gpt2",
            "gpt_neox", "opt",
        )
    },
    **{
        ("TOKEN_CLS", model): _TOKEN
        for model in ("bert", "albert", "distilbert", "roberta", "electra", "gpt2", "gpt_neox")
    },
    **{
        ("TOKEN_CLS", model): _TOKEN_SCORE
        for model in ("llama", "mistral", "qwen2", "qwen3", "gemma2", "phi")
    },
}  # fmt: skip


def task_of(config: Mapping[str, Any]) -> Task | None:
    """What `config`, checked before, says the whole model does, where it classifies."""
    task = config.get("task_type")
    if task in ("SEQ_CLS", "TOKEN_CLS"):
        return "SEQ_CLS" if task == "SEQ_CLS" else "TOKEN_CLS"
    tuned = (config.get("auto_mapping") or {}).get("base_model_class", "")
    saves = config.get("modules_to_save")
    return next((_CLASSES[end] for end in _CLASSES if saves and tuned.endswith(end)), None)


def take(
    task: Task, tensors: Tensors, config: Mapping[str, Any], base: BaseCard, folder: Path | None
) -> tuple[NewPart, set[str]]:
    """The head among the `tensors` of a PEFT file, and the names of those that are its own.

    `folder` holds the base, which has what PEFT did not save (BERT's pooler); its labels are
    LABEL_0 and so on, as transformers calls labels without names. Raises InvalidArtifact or
    WrongBase.
    """
    form = FORMS.get((task, base.model_type))
    if form is None:
        raise InvalidArtifact(
            f"task_type {task}: classifiers of {base.model_type} are not served as heads here: "
            "train a head on the imported adapter, and save the adapter without task_type"
        )
    own = {
        f"{ours}{leaf}": name
        for ours, module in form.modules.items()
        for leaf in ("weight", "bias")
        if (name := f"{PREFIX}{module}.{leaf}") in tensors
    }
    found = {ours: tensors[name] for ours, name in own.items()}
    if "weight" not in found:
        raise InvalidArtifact(
            f"task_type {task}: tensor {PREFIX}{form.output}.weight is missing: save the adapter "
            f"with modules_to_save {form.output.partition('.')[0]}, or without task_type"
        )
    found |= _filled(form, found, base, folder)
    spec = _spec(form, found, base)
    record = Record(names=own).metadata
    return NewPart(spec, pack(dict(sorted(found.items())), record)), set(own.values())


def tensors_for(spec: HeadSpec, tensors: Tensors, task: Task, base: BaseCard) -> Tensors:
    """A head that was made here, under PEFT's names. Raises ArtifactError where none fit it."""
    form = FORMS.get((task, base.model_type))
    wanted = None if form is None else (form.pooling, form.inner and form.activation)
    has = (spec.pooling, spec.hidden and spec.activation)
    if (
        form is None
        or wanted != has
        or spec.normalize
        or spec.hidden not in (None, base.hidden_size)
    ):
        raise ArtifactError(
            f"the head (pooling {spec.pooling}, normalize {spec.normalize}, hidden {spec.hidden}) "
            f"is none that transformers' {base.model_type} models have; use --target onnx, or "
            "export the adapter without the head"
        )
    if not form.bias and any(tensors["bias"][1]):
        raise ArtifactError(
            f"the head has a bias, and transformers' {base.model_type} classifier has none; use "
            "--target onnx, or export the adapter without the head"
        )
    written = {}
    for ours, module in form.modules.items():
        for leaf in ("weight", "bias"):
            if form.bias or leaf == "weight":
                written[f"{PREFIX}{module}.{leaf}"] = tensors[f"{ours}{leaf}"]
    return written


def saved_modules(names: Mapping[str, Any]) -> list[str]:
    """The `modules_to_save` that a head's tensors, by PEFT's names, need."""
    tops = {name.removeprefix(PREFIX).rpartition(".")[0] for name in names}
    return sorted({top.partition(".")[0] if top.startswith("classifier") else top for top in tops})


def _spec(form: Form, found: Tensors, base: BaseCard) -> HeadSpec:
    labels = found["weight"][0].shape[0] if found["weight"][0].shape else 0
    inner = found.get("hidden.weight")
    config = {
        "pooling": form.pooling,
        "normalize": False,
        "labels": [f"LABEL_{number}" for number in range(min(labels, 1025))],
        "hidden": inner[0].shape[0] if inner and inner[0].shape else None,
        "activation": form.activation,
    }
    try:
        spec = parse_spec("head", config)
    except ArtifactError as error:
        raise InvalidArtifact(f"{PREFIX}{form.output}.weight: {error}") from error
    assert isinstance(spec, HeadSpec)
    for name, shape in spec.tensor_shapes(base).items():
        if name in found and found[name][0].shape != shape:
            raise WrongBase(
                f"the classifier's {name} has shape {list(found[name][0].shape)}, on base "
                f"{base.name!r} it would have {list(shape)}: was it trained on another base?"
            )
    return spec


def _filled(form: Form, found: Tensors, base: BaseCard, folder: Path | None) -> Tensors:
    """What the task model has and the file has not: a bias of zeros, the base's own linear."""
    filled: Tensors = {}
    if "bias" not in found:
        if form.bias:
            raise InvalidArtifact(f"tensor {PREFIX}{form.output}.bias is missing")
        header, _ = found["weight"]
        zeros = header._replace(shape=header.shape[:1], begin=0, end=0)
        width = len(found["weight"][1]) // max(1, _count(header))
        filled["bias"] = (zeros, bytes(width * _count(zeros)))
    if form.inner is None:
        return filled
    missing = {f"hidden.{leaf}" for leaf in ("weight", "bias")} - found.keys()
    if missing and len(missing) == 1:
        raise InvalidArtifact(f"tensor {PREFIX}{form.inner}.{min(missing)[7:]} is missing")
    return filled | (_of_base(form.inner, base, folder) if missing else {})


def _count(header: TensorHeader) -> int:
    total = 1
    for length in header.shape:
        total *= length
    return total


def _of_base(inner: str, base: BaseCard, folder: Path | None) -> Tensors:
    """The linear `inner` as the base's files have it."""
    module = base.module_path(inner)
    if f"{module}.weight" not in base.parameters:
        raise InvalidArtifact(
            f"the classifier reads {inner}, which neither the file nor base {base.name} has: save "
            f"the adapter with modules_to_save {module.partition('.')[0]}"
        )
    if folder is None:
        raise InvalidArtifact(
            f"the classifier reads {inner}, which the file leaves to the base: give the base's own "
            "folder (--base PATH)"
        )
    try:
        if fingerprint(folder) != base.fingerprint:
            raise InvalidArtifact(f"{folder} is not base {base.name}: its fingerprint differs")
        return {
            f"hidden.{leaf}": _read_tensor(folder, base, f"{module}.{leaf}")
            for leaf in ("weight", "bias")
        }
    except (ArtifactError, BaseError, OSError) as error:
        raise InvalidArtifact(f"the base's {inner} cannot be read: {error}") from error


def _read_tensor(folder: Path, base: BaseCard, wanted: str) -> tuple[TensorHeader, bytes]:
    for file in weight_files(folder):
        for name, header in read_header(file).items():
            if base.module_path(name) == wanted:
                with file.open("rb") as stream:
                    start = 8 + int.from_bytes(stream.read(8), "little")
                    stream.seek(start + header.begin)
                    return header, stream.read(header.end - header.begin)
    raise BaseError(f"{folder} has no {wanted}")
