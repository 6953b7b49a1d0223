"""The table of kinds: the one place where a new kind is registered.

Torch-free: a kind's op is named here and imported only by who computes with it.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from rootstock_adapters.bottleneck.spec import BottleneckSpec
from rootstock_adapters.delta.spec import DeltaSpec
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.ia3.spec import Ia3Spec
from rootstock_adapters.lora.spec import LoraSpec
from rootstock_adapters.prompt.spec import PromptSpec
from rootstock_adapters.soft_prompt.spec import SoftPromptSpec
from rootstock_adapters.spec import PartSpec

KINDS: dict[str, type[PartSpec]] = {
    spec.kind: spec
    for spec in (
        BottleneckSpec, DeltaSpec, HeadSpec, Ia3Spec, LoraSpec, PromptSpec, SoftPromptSpec,
    )
}  # fmt: skip


def parse_spec(kind: str, config: dict[str, Any]) -> PartSpec:
    """The typed config of a part. Raises ArtifactError naming the field at fault."""
    if kind not in KINDS:
        raise ArtifactError(f"unknown kind {kind!r} (known: {', '.join(sorted(KINDS))})")
    try:
        # By way of JSON, strictly: a number is never read out of a text, nor out of a truth value.
        return KINDS[kind].model_validate_json(json.dumps(config, allow_nan=False), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "config"
        raise ArtifactError(f"{kind}: {field}: {first['msg']}") from error
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{kind}: the config has no JSON form: {error}") from error
