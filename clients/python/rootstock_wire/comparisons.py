"""Many methods on one dataset: how variants are written, what a comparison is asked, what it says.

Refuses to know how anything is trained and measured.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field

from rootstock_wire.fields import Answer, Ask, ModelName
from rootstock_wire.methods import (
    ALIASES,
    METHODS,
    SETTINGS,
    GradientSettings,
    canonical,
    parse_settings,
)
from rootstock_wire.pages import Listed

MAX_VARIANTS = 32
MAX_SEEDS = 10
# The bars that every comparison has: the base as it is, and examples in place of training.
BASE, FEW_SHOT = "base", "few-shot"

# Where nobody says otherwise, by the base's task: from the cheapest to the dearest, one of each
# idea.
DEFAULT = {
    "encode": ("head", "bitfit", "lora", "bottleneck", "full"),
    "generate": ("few-shot", "soft_prompt", "ia3", "lora:rank=4", "lora:rank=16", "bottleneck",
                 "full"),
    "text2text": ("ia3", "lora", "bottleneck", "full"),
}  # fmt: skip
MAX_NAME = 64  # of an adapter
# Under a budget in seconds the clock decides, not this.
MAX_EPOCHS = 100

Metric = Literal["accuracy", "macro_f1", "exact_match", "token_f1", "chrf", "bleu"]


class Variant(NamedTuple):
    """A method with the hyperparameters that were given; `label` is how it was written."""

    method: str
    settings: Mapping[str, Any]
    label: str


def parse_variants(texts: Iterable[str]) -> list[Variant]:
    """`head`, `lora:rank=4`, `lora:rank=4:n_epochs=5`, `bottleneck:layers=top4`, `full`; several
    in one text stand between commas, and numbers after a comma go on with a list: `layers=0,3`.

    Raises ValueError in one sentence that names the variant at fault.
    """
    written = [each for text in texts for each in _split(text)]
    variants = [_variant(each) for each in written]
    labels = [variant.label for variant in variants]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"methods: {label} is there twice")
    if not 1 <= len(variants) <= MAX_VARIANTS:
        raise ValueError(f"methods: give 1 to {MAX_VARIANTS} variants, not {len(variants)}")
    return variants


def variants_for(task: str, asked: Sequence[str]) -> list[Variant]:
    """What is compared on a base of `task`: what was asked, or DEFAULT; and the bar that needs a
    job of its own. On a decoder that is few-shot; an encoder's bars are measured with a head.

    Raises ValueError as `parse_variants` does.
    """
    variants = parse_variants(asked or DEFAULT[task])
    methods = {canonical(variant.method) for variant in variants}
    bar = {"generate": FEW_SHOT, "encode": "head"}.get(task)
    if bar is not None and bar not in methods:
        variants = parse_variants([bar]) + variants
    return variants


def adapter_name(name: str, label: str) -> str:
    """`triage` and `lora:rank=4` are `triage-lora-rank-4`; a long one ends in a digest."""
    whole = f"{name}-{re.sub('[^a-z0-9]+', '-', label.lower()).strip('-')}"
    if len(whole) <= MAX_NAME:
        return whole
    return f"{whole[: MAX_NAME - 9]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def hyperparameters(variant: Variant, budget_s: float | None) -> dict[str, Any]:
    """A variant's own; with `budget_s`, whatever goes down a gradient does so for that long,
    unless the variant says otherwise."""
    timed = issubclass(SETTINGS[canonical(variant.method)], GradientSettings)
    limit = {"max_seconds": budget_s, "n_epochs": MAX_EPOCHS} if budget_s and timed else {}
    return {**limit, **variant.settings}


def budget_words(budget_s: float | None) -> str:
    same = "Equal budgets: the same rows, split in the same way for every variant of a seed"
    if budget_s is None:
        return f"{same}, and as many passes over them as `n_epochs` says."
    return f"{same}, and at most {budget_s:g} s of gradient descent each."


def _split(text: str) -> list[str]:
    written: list[str] = []
    for piece in (each.strip() for each in text.split(",")):
        if piece.isdecimal() and written and "=" in written[-1]:
            written[-1] += f",{piece}"
        else:
            written.append(piece)
    return written


def _variant(text: str) -> Variant:
    method, *settings = text.split(":")
    if method not in METHODS and method not in ALIASES:
        known = ", ".join(METHODS)
        raise ValueError(f"methods: there is no method {method[:80]!r} (known: {known})")
    values: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name or not value:
            raise ValueError(f"methods: {text[:80]!r}: write METHOD:SETTING=VALUE, as lora:rank=4")
        if name in values:
            raise ValueError(f"methods: {text[:80]!r} sets {name} twice")
        values[name] = _value(value)
    try:
        parse_settings(method, values)
    except ValueError as error:
        raise ValueError(f"methods: {text[:80]!r}: {error}") from None
    return Variant(method, values, text)


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _checked(texts: list[str]) -> list[str]:
    parse_variants(texts)
    return texts


class ComparisonRequest(Ask):
    """`training_file` is an uploaded file's id, `model` a base's name, `suffix` begins the names of
    the versions. Every variant trains on the same rows, once for each of `seeds` seeds, and for
    `budget` seconds where that is given. Without `methods`, one of each idea."""

    model: ModelName
    training_file: Annotated[str, Field(min_length=1, max_length=256)]
    methods: (
        Annotated[
            list[Annotated[str, Field(min_length=1, max_length=512)]],
            Field(min_length=1, max_length=MAX_VARIANTS),
            AfterValidator(_checked),
        ]
        | None
    ) = None
    seeds: Annotated[int, Field(ge=1, le=MAX_SEEDS)] = 1
    suffix: Annotated[str, Field(min_length=1, max_length=40)] = "compare"
    budget: Annotated[float, Field(gt=0, le=86_400)] | None = None
    metric: Metric | None = None


class Spread(Answer):
    """A figure over the seeds: its mean, and the smallest and the largest."""

    mean: float
    low: float
    high: float


class Entry(Answer):
    """One line of the table. `figures` are means over the seeds; None is what was not measured.

    `added_latency_ms` and `tokens_per_s` are a served request's, beside the base alone.
    """

    label: str
    state: Literal["measured", "failed"]
    error: str | None = None
    quality: Spread | None = None
    forgetting: Spread | None = None
    train_seconds: Spread | None = None
    trained_parameters: int | None = None
    base_share: float | None = None
    artifact_bytes: int | None = None
    added_latency_ms: float | None = None
    tokens_per_s: float | None = None
    figures: dict[str, float] = Field(default_factory=dict)
    jobs: list[str] = Field(default_factory=list)
    versions: list[str] = Field(default_factory=list)


class Recommendation(Answer):
    """The entry that is advised, in a sentence, and why."""

    choice: str | None
    text: str
    reasons: list[str]


class ComparisonResult(Answer):
    """`metric` is the figure in `quality`; `budget` says in words what was equal."""

    metric: str
    budget: str
    seeds: int
    train_rows: int
    held_out_rows: int
    entries: list[Entry]
    recommendation: Recommendation


class Comparison(Listed):
    """A comparison as `/v1/comparisons` shows it. `jobs` are fine-tuning jobs; `result` is there
    once all of them have ended."""

    object: Literal["comparison"] = "comparison"
    created_at: int
    finished_at: int | None = None
    status: Literal["running", "succeeded", "failed"]
    model: str
    methods: list[str]
    seeds: int
    jobs: list[str]
    result: ComparisonResult | None = None
