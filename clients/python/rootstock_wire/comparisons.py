"""Many methods on one dataset: how variants are written, what a comparison is asked, what it says.

Refuses to know how anything is trained and measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, Field

from rootstock_wire.fields import Answer, Ask, ModelName
from rootstock_wire.methods import ALIASES, METHODS, parse_settings

MAX_VARIANTS = 32
MAX_SEEDS = 10
# The bars that every comparison has: the base as it is, and examples in place of training.
BASE, FEW_SHOT = "base", "few-shot"

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
    the versions. Every variant trains on the same rows, once for each of `seeds` seeds."""

    model: ModelName
    training_file: Annotated[str, Field(min_length=1, max_length=256)]
    methods: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=512)]],
        Field(min_length=1, max_length=MAX_VARIANTS),
        AfterValidator(_checked),
    ]
    seeds: Annotated[int, Field(ge=1, le=MAX_SEEDS)] = 1
    suffix: Annotated[str, Field(min_length=1, max_length=40)] = "compare"
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


class Comparison(Answer):
    """A comparison as `/v1/comparisons` shows it; `result` is there once all jobs have ended."""

    id: str
    object: Literal["comparison"] = "comparison"
    created_at: int
    finished_at: int | None = None
    status: Literal["running", "succeeded", "failed"]
    model: str
    methods: list[str]
    seeds: int
    jobs: list[str]
    result: ComparisonResult | None = None


class ComparisonList(Answer):
    """Newest first."""

    object: Literal["list"] = "list"
    data: list[Comparison]
    has_more: bool = False
