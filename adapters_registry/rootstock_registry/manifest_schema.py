"""The manifest as a public format: its JSON Schema, with the config of every kind of part.

Made from the models that read manifests, so that it cannot say anything else than they do. Refuses
to know what is in a registry.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from rootstock_adapters.kinds import KINDS

from rootstock_registry.manifest import Manifest

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_MODE: JsonSchemaMode = "serialization"


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of `manifest.json`, each part's config checked by its kind."""
    specs: list[type[BaseModel]] = [Manifest, *(spec for _, spec in sorted(KINDS.items()))]
    models = [(model, _MODE) for model in specs]
    places, schema = models_json_schema(models, ref_template="#/$defs/{model}")
    definitions = schema["$defs"]
    manifest = definitions.pop("Manifest")
    definitions["Part"]["properties"]["kind"] = {"enum": sorted(KINDS), "title": "Kind"}
    definitions["Part"]["allOf"] = [
        {
            "if": {"properties": {"kind": {"const": kind}}},
            "then": {"properties": {"config": places[spec, _MODE]}},
        }
        for kind, spec in sorted(KINDS.items())
    ]
    return {
        "$schema": DIALECT,
        **manifest,
        "title": "Manifest of a Rootstock version",
        "$defs": definitions,
    }
