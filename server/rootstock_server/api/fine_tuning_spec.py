"""A request for a fine-tuning job as the row that a worker will read.

Refuses to know what a worker does with it: the row's words are the trainer's.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rootstock_registry import KeyOwner, gates
from rootstock_registry.names import check_name
from rootstock_wire.fine_tuning import CreateJobRequest
from rootstock_wire.methods import canonical, parse_settings, to_message

from rootstock_server.api.handle import Handle
from rootstock_server.api.registry_calls import openai_words
from rootstock_server.errors import BadRequest, UnknownModel

DEFAULT_METHOD = "supervised"


def row_of(handle: Handle, caller: KeyOwner, body: CreateJobRequest) -> dict[str, Any]:
    """Raises BadRequest or Unknown naming the field that cannot be used."""
    base = handle.bases.get(body.model)
    if base is None:
        raise UnknownModel(
            f"model: the base `{body.model}` is not served here; jobs train on bases: "
            f"{', '.join(sorted(handle.bases))}",
            param="model",
        )
    method, chosen = _method(body)
    files = {"data": body.training_file, "validation": body.validation_file}
    for field, param in (("data", "training_file"), ("validation", "validation_file")):
        if files[field] is not None:
            with openai_words(param):
                handle.registry.file(caller.tenant, files[field])
    asked = body.model_dump(exclude={"method", "hyperparameters", "priority", "integrations"})
    asked["method"] = to_message(method, chosen)
    name, promote = _names(body, asked)
    return {
        "method": canonical(method),
        "base": body.model,
        "base_path": str(base.path),
        **{field: file for field, file in files.items() if file is not None},
        "name": name,
        "promote": promote,
        "require": _gates(body),
        "seed": body.seed if body.seed is not None else 0,
        "hyperparameters": chosen,
        "request": asked,
    }


def _method(body: CreateJobRequest) -> tuple[str, dict[str, Any]]:
    method = body.method.type if body.method else DEFAULT_METHOD
    chosen = dict(body.method.chosen) if body.method else {}
    if body.hyperparameters is not None:
        chosen |= body.hyperparameters.given
    try:
        parse_settings(method, chosen)
    except ValueError as error:
        raise BadRequest(str(error), param=str(error).partition(":")[0]) from None
    return method, chosen


def _gates(body: CreateJobRequest) -> list[str]:
    """`metadata.require`: what must hold before the alias moves, separated by commas."""
    written = (body.metadata or {}).get("require", "")
    demanded = [text.strip() for text in written.split(",") if text.strip()]
    with openai_words("metadata.require"):
        gates.parse_for_training(demanded)
    if demanded and "promote" not in (body.metadata or {}):
        raise BadRequest(
            "metadata.require: it needs metadata.promote, the alias that its gates hold back",
            param="metadata.require",
        )
    return demanded


def _names(body: CreateJobRequest, asked: dict[str, Any]) -> tuple[str, str | None]:
    """The adapter's name, and the alias that is to follow."""
    promote = (body.metadata or {}).get("promote")
    # Without a suffix, the base's name with a mark of what was asked: the same again is the same.
    mark = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:8]
    with openai_words("suffix"):
        name = check_name("suffix", body.suffix or f"{body.model[:55]}-{mark}")
    if promote is not None:
        with openai_words("metadata.promote"):
            check_name("metadata.promote", promote)
    return name, promote
