"""The manifest's public format: its schema file is what the models read, kind by kind."""

from __future__ import annotations

import json
from pathlib import Path

from rootstock_adapters.kinds import KINDS
from rootstock_registry import Manifest
from rootstock_registry.manifest_schema import manifest_schema

FILE = Path(__file__).resolve().parents[2] / "docs" / "manifest.schema.json"


def test_the_schema_file_is_the_models_own() -> None:
    assert json.loads(FILE.read_text(encoding="utf-8")) == manifest_schema()


def test_every_field_and_every_kinds_config_is_described_and_nothing_else_allowed() -> None:
    schema = manifest_schema()
    assert schema["properties"].keys() == Manifest.model_fields.keys()
    assert schema["additionalProperties"] is False
    chosen = {}
    for rule in schema["$defs"]["Part"]["allOf"]:
        kind = rule["if"]["properties"]["kind"]["const"]
        place = rule["then"]["properties"]["config"]["$ref"].removeprefix("#/$defs/")
        chosen[kind] = schema["$defs"][place]
    assert chosen.keys() == KINDS.keys()
    for kind, spec in KINDS.items():
        assert chosen[kind]["properties"].keys() == spec.model_fields.keys()
        assert chosen[kind]["additionalProperties"] is False


def test_every_reference_in_the_schema_leads_somewhere() -> None:
    schema = manifest_schema()
    text = json.dumps(schema)
    named = {piece.partition('"')[0] for piece in text.split('"#/$defs/')[1:]}
    assert named <= schema["$defs"].keys()
    assert named >= {"Part", "BaseRef", "Lineage", "TensorInfo"}
