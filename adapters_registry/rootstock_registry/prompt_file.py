"""A prompt's JSON file, read as one part: `template`, `system`, `examples`.

Refuses to know bases: words fit them all.
"""

from __future__ import annotations

from pathlib import Path

from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.file import parse_object
from rootstock_adapters.kinds import parse_spec
from rootstock_adapters.prompt.spec import NO_TENSORS

from rootstock_registry import offered
from rootstock_registry.errors import InvalidArtifact
from rootstock_registry.manifest import Lineage
from rootstock_registry.records import NewPart

MAX_BYTES = 4 << 20


def read(file: Path) -> tuple[NewPart, Lineage]:
    """The prompt in `file`. Raises InvalidArtifact naming the file and the field."""
    text = offered.read(file, MAX_BYTES)
    try:
        if len(text) > MAX_BYTES:
            raise ArtifactError(f"it is over {MAX_BYTES} bytes")
        spec = parse_spec("prompt", parse_object(text))
    except ArtifactError as error:
        raise InvalidArtifact(f"{file.name} is not a prompt: {error}") from error
    return NewPart(spec, NO_TENSORS), Lineage(method="import", source="prompt file")
