"""How a training job says what it does: one strict settings model per method, in OpenAI's shape.

The names are OpenAI's and PEFT's where they have one. Refuses to know bases, data and torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field, ValidationError, create_model, model_validator

from rootstock_wire.fields import Ask

Activation = Literal["relu", "gelu", "silu", "tanh"]
Words = Annotated[str, Field(min_length=1, max_length=100_000)]
Template = Annotated[Words, Field(pattern=r"\{input\}")]
Column = Annotated[str, Field(min_length=1, max_length=128)]
ModuleName = Annotated[str, Field(min_length=1, max_length=256)]


def _parts(value: object) -> object:
    """`a,b` on a command line is the list that JSON would write."""
    return [each.strip() for each in value.split(",")] if isinstance(value, str) else value


def _layers(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, str):
        return value
    parts = [each.strip() for each in value.split(",")]
    if all(each.isdecimal() for each in parts):
        return [int(each) for each in parts]
    if not re.fullmatch(r"all|top-half|top[1-9][0-9]{0,3}", value):
        raise ValueError("must be all, top-half, topN as in top4, or numbers of layers as in 0,3")
    return value


def _modules(value: object) -> object:
    return value if value == "all-linear" else _parts(value)


# Layers count from 0 at the input. `top4` are the four next to the output.
Layers = Annotated[
    str | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1, max_length=1024)],
    BeforeValidator(_layers),
]
TargetModules = Annotated[
    Literal["all-linear"] | Annotated[list[ModuleName], Field(min_length=1, max_length=4096)],
    BeforeValidator(_modules),
]
Columns = Annotated[list[Column], Field(min_length=1, max_length=64), BeforeValidator(_parts)]


class Settings(Ask):
    """Hyperparameters of one method. Everything has a default; `"auto"` is OpenAI's word for it."""

    @model_validator(mode="before")
    @classmethod
    def _auto_is_the_default(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {name: value for name, value in values.items() if value != "auto"}


class PromptSettings(Settings):
    """Zero-shot: what is said around the caller's text. Nothing is trained.

    Labelled texts have an instruction of their own where neither `template` nor `system` is given.
    """

    template: Template | None = None
    system: Words | None = None


class FewShotSettings(PromptSettings):
    """`shots` examples from the training rows, the best of `candidates` random choices by their
    loss on other training rows."""

    shots: int = Field(default=4, ge=1, le=64)
    candidates: int = Field(default=8, ge=1, le=256)


class HeadSettings(Settings):
    """A classifier on stored features: linear, or with a hidden layer of `hidden` units.

    `c` is scikit-learn's C, 1 / L2 strength. Each of `label_columns` becomes a head of its own.
    """

    c: float = Field(default=1.0, gt=0)
    hidden: int | None = Field(default=None, ge=1, le=16384)
    activation: Activation = "tanh"
    pooling: Literal["cls", "mean", "last", "max"] | None = None
    label_columns: Columns | None = None
    # Only a hidden layer needs these: a linear head is solved to the end.
    n_epochs: int = Field(default=100, ge=1, le=10_000)
    batch_size: int = Field(default=64, ge=1, le=65536)
    learning_rate: float = Field(default=3e-3, gt=0)
    learning_rate_multiplier: float = Field(default=1.0, gt=0)


class GradientSettings(Settings):
    """What all methods share that go down a gradient through the base.

    The learning rate is `learning_rate * learning_rate_multiplier`. `batch_size` counts the rows of
    one backward pass; an optimiser step takes `gradient_accumulation` of them. `early_stopping` is
    the number of evaluations without a better loss after which training ends. `max_seconds` lowers
    the number of steps to what is done in that time, judged by the first of them. Rows over
    `max_length` tokens are cut; without it, rows over the base's context are refused.
    """

    n_epochs: int = Field(default=3, ge=1, le=1000)
    max_seconds: float | None = Field(default=None, gt=0)
    batch_size: int = Field(default=8, ge=1, le=1024)
    learning_rate: float = Field(default=1e-3, gt=0)
    learning_rate_multiplier: float = Field(default=1.0, gt=0)
    gradient_accumulation: int = Field(default=1, ge=1, le=1024)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    early_stopping: int | None = Field(default=None, ge=1, le=1000)
    max_grad_norm: float = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_length: int | None = Field(default=None, ge=2, le=1_000_000)
    packing: bool = False
    bf16: bool = False
    gradient_checkpointing: bool = False


class LoraSettings(GradientSettings):
    """LoRA (arXiv 2106.09685). `target_modules` as PEFT reads them: whole paths or their ends."""

    rank: int = Field(default=8, ge=1, le=256)
    alpha: float = Field(default=16.0, gt=0)
    target_modules: TargetModules = "all-linear"
    layers: Layers = "all"
    learning_rate: float = Field(default=2e-3, gt=0)


class RsLoraSettings(LoraSettings):
    """LoRA scaled by alpha / sqrt(rank) (arXiv 2312.03732)."""

    learning_rate: float = Field(default=1e-3, gt=0)


class DoraSettings(LoraSettings):
    """LoRA with learned row lengths (arXiv 2402.09353)."""


class Ia3Settings(GradientSettings):
    """Factors on keys, values and the feed-forward's inner activations (arXiv 2205.05638)."""

    target_modules: TargetModules | None = None  # None: keys, values and feed-forward outputs
    layers: Layers = "all"
    learning_rate: float = Field(default=5e-3, gt=0)


class SoftPromptSettings(GradientSettings):
    """Learned input embeddings before the text (arXiv 2104.08691)."""

    num_virtual_tokens: int = Field(default=16, ge=1, le=1024)
    learning_rate: float = Field(default=1e-2, gt=0)


class PrefixSettings(SoftPromptSettings):
    """Learned keys and values before the text, in every layer (arXiv 2101.00190)."""


class BottleneckSettings(GradientSettings):
    """Small layers behind sublayers (arXiv 1902.00751), as wide as the base's hidden size divided
    by `reduction_factor`, or of `size` units."""

    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    reduction_factor: float = Field(default=16.0, ge=1)
    size: int | None = Field(default=None, ge=1, le=4096)
    nonlinearity: Literal["relu", "gelu", "silu"] = "relu"
    layers: Layers = "top-half"


class BitFitSettings(GradientSettings):
    """The base's biases (arXiv 2106.10199)."""


class NormsSettings(GradientSettings):
    """The base's norms."""


class TopKSettings(GradientSettings):
    """The last `k` layers (arXiv 1911.03090)."""

    k: int = Field(default=1, ge=1, le=1024)
    learning_rate: float = Field(default=2e-4, gt=0)


class FullSettings(GradientSettings):
    """All of the base's parameters."""

    learning_rate: float = Field(default=1e-4, gt=0)


SETTINGS: dict[str, type[Settings]] = {
    "prompt": PromptSettings,
    "few-shot": FewShotSettings,
    "head": HeadSettings,
    "lora": LoraSettings,
    "rslora": RsLoraSettings,
    "dora": DoraSettings,
    "ia3": Ia3Settings,
    "soft_prompt": SoftPromptSettings,
    "prefix": PrefixSettings,
    "bottleneck": BottleneckSettings,
    "bitfit": BitFitSettings,
    "norms": NormsSettings,
    "top-k": TopKSettings,
    "full": FullSettings,
}
# OpenAI's word for plain fine-tuning, and PEFT's for the two soft prompts.
ALIASES = {"supervised": "lora", "prompt-tuning": "soft_prompt", "prefix-tuning": "prefix"}
METHODS = tuple(SETTINGS)


def canonical(name: str) -> str:
    """The method that `name` means: itself, unless it is an alias."""
    return ALIASES.get(name, name)


def parse_settings(method: str, values: Mapping[str, Any]) -> Settings:
    """`values` checked as hyperparameters of `method`, a name or an alias.

    Raises ValueError in one sentence that names the field and, of an unknown one, those known.
    """
    name = canonical(method)
    if name not in SETTINGS:
        known = ", ".join(METHODS)
        raise ValueError(f"method: there is no method {method[:80]!r} (known: {known})")
    model = SETTINGS[name]
    if unknown := sorted(str(key) for key in values if key not in model.model_fields):
        raise ValueError(
            f"hyperparameters.{unknown[0][:80]}: method {name} has no such hyperparameter "
            f"(known: {', '.join(model.model_fields)})"
        )
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ValueError(f"hyperparameters.{field}: {message}") from error


def to_message(method: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's shape: `{"type": "lora", "lora": {"hyperparameters": {…}}}`."""
    return {"type": method, method: {"hyperparameters": dict(hyperparameters)}}


class MethodMessage(Ask):
    """What all members of `Method` have: `type`, and a block of that name with hyperparameters.

    `chosen` is what the caller gave, `settings` that with every default.
    """

    type: str

    @property
    def name(self) -> str:
        return canonical(self.type)

    @property
    def settings(self) -> Settings:
        settings: Settings = self.block.hyperparameters  # type: ignore[attr-defined]
        return settings

    @property
    def chosen(self) -> dict[str, Any]:
        return self.settings.model_dump(exclude_unset=True)


def _message(name: str) -> type[MethodMessage]:
    settings = SETTINGS[canonical(name)]
    title = "".join(word.title() for word in name.replace("_", "-").split("-"))
    block: Any = create_model(f"{title}Block", __base__=Ask, hyperparameters=(settings, settings()))
    return create_model(
        f"{title}Method",
        __base__=MethodMessage,
        type=(Literal[name], ...),  # type: ignore[arg-type]
        block=(block, Field(default=block(), alias=name)),
    )


if TYPE_CHECKING:
    Method = MethodMessage
else:
    Method = Annotated[
        Union[tuple(_message(name) for name in (*SETTINGS, *ALIASES))],  # noqa: UP007
        Field(discriminator="type"),
    ]
