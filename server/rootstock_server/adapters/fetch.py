"""From a version digest to checked tensors, ready for a slot. Runs off the engine's thread.

Reads the blob store only; refuses to know names, tenants and which requests wait.
"""

from __future__ import annotations

import logging

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.kinds import parse_spec
from rootstock_adapters.op import Prepared, prepare
from rootstock_registry.blobs import BlobStore
from rootstock_registry.errors import RegistryError, Unavailable
from rootstock_registry.manifest import Manifest
from safetensors import SafetensorError
from safetensors.torch import load

from rootstock_server.errors import AdapterMismatch, CorruptAdapter, Overloaded

log = logging.getLogger(__name__)


def fetch(blobs: BlobStore, card: BaseCard, digest: str) -> Prepared:
    """Read, hash, validate and prepare the version `digest` for the base `card`.

    The bytes that were hashed are the bytes that are parsed. Raises AdapterMismatch where the
    version belongs to another base, CorruptAdapter where its bytes are not what was published,
    Overloaded where they cannot be read just now.
    """
    try:
        manifest = Manifest.model_validate_json(blobs.get(digest))
        if manifest.base.fingerprint != card.fingerprint:
            raise AdapterMismatch(
                f"version {digest} was made for base {manifest.base.name}, not for {card.name}"
            )
        prepared = Prepared()
        for part in manifest.parts:
            spec = parse_spec(part.kind, part.config)
            data = blobs.get(part.blob)
            spec.check(data, card)
            prepared = prepared.merge(prepare(spec, load(data)))
    except Unavailable as error:
        log.warning("version %s cannot be fetched: %s", digest, error)
        raise Overloaded(f"version {digest} cannot be fetched now; try again in a moment") from None
    except (RegistryError, ArtifactError, SafetensorError, ValueError) as error:
        raise CorruptAdapter(f"version {digest} cannot be loaded: {error}") from error
    return prepared
