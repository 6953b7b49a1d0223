"""A prompt's JSON file becomes a version without tensors; what is wrong with one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.prompt.spec import NO_TENSORS, PromptSpec
from rootstock_registry import Lineage, NewPart, Registry, errors

PROMPT = {"template": "Q: {input}\nA:", "examples": [{"input": "1", "output": "2"}]}


def test_a_file_becomes_a_version_by_content(
    registry: Registry, card: BaseCard, tmp_path: Path
) -> None:
    file = tmp_path / "asker.json"
    file.write_text(json.dumps(PROMPT))
    version = registry.import_prompt("local", "asker", file, card, promote="prod")
    [part] = version.manifest.parts
    assert (part.kind, part.tensors) == ("prompt", {})
    assert part.config == PROMPT | {"system": None}
    assert version.manifest.lineage.source == "prompt file"
    file.write_text(json.dumps(dict(reversed(PROMPT.items())), indent=2))
    assert registry.import_prompt("local", "asker", file, card).digest == version.digest


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("template: {input}", "asker.json is not a prompt: it is not JSON"),
        ('{"template": "{inptu}"}', r"prompt: template: .*must contain \{input\}"),
        ('{"template": "{input}", "template": "x {input}"}', "duplicate keys"),
        ('{"prompt": "x {input}"}', "prompt: prompt: Extra inputs"),
        ('{"system": "' + "x" * (5 << 20) + '"}', "it is over 4194304 bytes"),
    ],
)
def test_what_is_no_prompt_is_named(
    registry: Registry, card: BaseCard, tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "asker.json"
    file.write_text(text)
    with pytest.raises(errors.InvalidArtifact, match=words):
        registry.import_prompt("local", "asker", file, card)


def test_one_version_takes_one_prompt(registry: Registry, card: BaseCard) -> None:
    parts = [NewPart(PromptSpec(system=text), NO_TENSORS) for text in ("S", "T")]
    with pytest.raises(errors.InvalidArtifact, match="two parts of kind prompt"):
        registry.publish("local", "asker", card, parts, lineage=Lineage(method="test"))
