"""The fields of PEFT's configs that change no answer here, each held to the form PEFT gives it.

They are kept to be written out again, so nothing is in them that another program would run, fetch
or open. Refuses to know what the other fields do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rootstock_registry.errors import InvalidArtifact

CONFIG = "adapter_config.json"
TaskType = Literal[
    "SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION"
]


def _plain(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has characters that cannot be printed")
    if "://" in text:
        raise ValueError("is an address, and nothing is fetched")
    return text


def _once(names: list[str]) -> list[str]:
    if twice := [name for name, times in Counter(names).items() if times > 1]:
        raise ValueError(f"has {twice[0]} twice")
    return names


Text = Annotated[str, Field(max_length=1024), AfterValidator(_plain)]
List = Annotated[list[Text], Field(max_length=4096)]
Names = Annotated[List, AfterValidator(_once)]
Size = Annotated[int, Field(ge=1, le=1 << 24)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class AutoMapping(_Form):
    """Which class of transformers was tuned. PEFT imports what stands here."""

    base_model_class: Annotated[str, Field(pattern=r"^[A-Za-z_]\w{0,127}$")]
    parent_library: Annotated[
        str, Field(max_length=256, pattern=r"^transformers\.models(\.[A-Za-z_]\w*)+$")
    ]
    unsloth_fixed: bool | None = None


class RuntimeConfig(_Form):
    ephemeral_gpu_offload: bool = False


_TYPES: dict[str, Any] = {
    "auto_mapping": AutoMapping | None,
    "base_model_name_or_path": Text | None,
    "bias": Literal["none", "all", "lora_only"] | None,
    "encoder_hidden_size": Size | None,
    "exclude_modules": Names | Text | None,
    "fan_in_fan_out": bool | None,
    "inference_mode": bool | None,
    "init_ia3_weights": bool | None,
    "layers_pattern": Names | Text | None,
    "layers_to_transform": list[int] | int | None,
    "lora_dropout": Share | None,
    "megatron_core": Literal["megatron.core"] | None,
    "modules_to_save": List | None,  # PEFT itself appends a classifier's name again
    "num_attention_heads": Size | None,
    "num_layers": Size | None,
    "num_transformer_submodules": Size | None,
    "peft_version": Text | None,
    "prefix_projection": bool | None,
    "prompt_tuning_init": Text | None,
    "revision": Text | None,
    "runtime_config": RuntimeConfig | None,
    "target_modules": Names | Text | None,
    "task_type": TaskType | None,
    "token_dim": Size | None,
    # PEFT hands these to the tokenizer's loader, trust_remote_code among them.
    "tokenizer_kwargs": dict[str, None] | None,
    "tokenizer_name_or_path": Text | None,
}
_FORMS: dict[str, TypeAdapter[Any]] = {field: TypeAdapter(_TYPES[field]) for field in _TYPES}


def check(config: Mapping[str, Any]) -> None:
    """Raises InvalidArtifact, naming the field that has not the form PEFT gives it."""
    for field, form in _FORMS.items():
        if field not in config:
            continue
        try:
            form.validate_python(config[field], strict=True)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            message = first["msg"].removeprefix("Value error, ")
            raise InvalidArtifact(
                f"{CONFIG}: {field}: {message}; write what PEFT writes there, or delete the field"
            ) from error
