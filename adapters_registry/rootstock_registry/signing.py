"""Signatures of versions by a local key: model-signing's sigstore bundles over the manifest.

A manifest names every blob by its digest, so who signs it signs every byte of the version. Imports
model-signing only when something is signed or verified: it takes more than a second. Refuses to
know names, tenants and where bundles are kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rootstock_registry.errors import InvalidKey, Untrusted

MANIFEST_FILE = "manifest.json"
PRIVATE_FILE, PUBLIC_FILE = "key.pem", "pub.pem"
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # those that model-signing takes


@dataclass(frozen=True)
class Signature:
    """One signature of a version's content; `key_id` is the signer's, `bundle` sigstore's JSON."""

    digest: str
    key_id: str
    bundle: str
    created_at: datetime


class PublicKey:
    """A key that signatures are verified with. Raises InvalidKey where `path` has none."""

    def __init__(self, path: Path) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization

        self.path = path
        try:
            key = serialization.load_pem_public_key(_read(path))
        except UnsupportedAlgorithm as error:
            raise _another_kind(path) from error
        except ValueError as error:
            raise InvalidKey(
                f"{path} is not a public key in PEM; make one of a private key with: "
                f"openssl ec -in {PRIVATE_FILE} -pubout -out {PUBLIC_FILE}"
            ) from error
        _check_curve(path, key)
        self.id = _key_id(key)
        self._pem = _pem(
            key
        )  # what was read at the start is what counts, whatever the file becomes

    def verify(self, manifest: bytes, bundle: str) -> None:
        """Raises Untrusted where `bundle` is not this key's signature of exactly `manifest`."""
        from model_signing import verifying

        digest = hashlib.sha256(manifest).hexdigest()
        try:
            # Without the hint the library would accept the bundle and print a warning.
            signer = json.loads(bundle)["verificationMaterial"]["publicKey"]["hint"]
            if signer != self.id:
                raise Untrusted(f"it was signed with another key ({str(signer)[:12]}…)")
            with tempfile.TemporaryDirectory(prefix="rootstock-verify-") as text:
                model, file = _lay_out(Path(text), manifest)
                file.write_text(bundle, encoding="utf-8")
                key = Path(text) / PUBLIC_FILE
                key.write_bytes(self._pem)
                config: Any = verifying.Config  # it has no types
                verifier = config().use_elliptic_key_verifier(public_key=key)
                verifier.set_hashing_config(_whole_files()).verify(model, file)
            # A bundle may tell the verifier to leave files out: what it names must be all of this.
            if _signed_files(bundle) != [("sha256", digest, MANIFEST_FILE)]:
                raise Untrusted("what was signed is not this version's manifest")
        except (OSError, Untrusted):
            raise
        except Exception as error:  # its parsers raise whatever a hostile bundle makes them raise
            raise Untrusted(f"its signature does not fit: {_first(error)}") from error


def preload() -> None:
    """Import what verifying needs now, so that the first verification does not wait for it."""
    from model_signing import hashing, verifying

    assert hashing and verifying


def sign(manifest: bytes, private_key: Path) -> tuple[str, str]:
    """`(key id, bundle)` over a manifest's canonical bytes. Raises InvalidKey."""
    key_id = _key_id(_private(private_key).public_key())
    from model_signing import signing

    with tempfile.TemporaryDirectory(prefix="rootstock-sign-") as text:
        folder, file = _lay_out(Path(text), manifest)
        config: Any = signing.Config  # it has no types
        signer = config().use_elliptic_key_signer(private_key=private_key)
        signer.set_hashing_config(_whole_files()).sign(folder, file)
        return key_id, file.read_text(encoding="utf-8")


def new_key_pair(folder: Path) -> tuple[Path, Path]:
    """`(private file, public file)` of a new P-256 key in `folder`, as openssl writes them.

    Raises FileExistsError where either is there: a key that signed something is never replaced.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    folder.mkdir(parents=True, exist_ok=True)
    private, public = folder / PRIVATE_FILE, folder / PUBLIC_FILE
    for file in (private, public):
        if file.exists():
            raise FileExistsError(f"{file} exists already: keep it, or choose another folder")
    _write(
        private,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        0o600,
    )
    _write(public, _pem(key.public_key()), 0o644)
    return private, public


def _private(path: Path) -> Any:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization

    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except TypeError as error:
        raise InvalidKey(
            f"{path} is encrypted, which model-signing cannot read; decrypt it with: "
            f"openssl ec -in {path} -out {PRIVATE_FILE}"
        ) from error
    except UnsupportedAlgorithm as error:
        raise _another_kind(path) from error
    except ValueError as error:
        raise InvalidKey(
            f"{path} is not a private key in PEM; make one with: rootstock generate-key-pair"
        ) from error
    _check_curve(path, key)
    return key


def _check_curve(path: Path, key: Any) -> None:
    curve = getattr(getattr(key, "curve", None), "name", None)
    if curve not in CURVES:
        raise _another_kind(path)


def _another_kind(path: Path) -> InvalidKey:
    return InvalidKey(f"{path} is a key of another kind; needed is an EC key on {CURVES[0]}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidKey(f"{path} cannot be read: {error.strerror}") from error


def _write(path: Path, data: bytes, mode: int) -> None:
    # Private from its first byte on, and never through a link or over a file.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(data)


def _pem(key: Any) -> bytes:
    from cryptography.hazmat.primitives import serialization

    pem: bytes = key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return pem


def _key_id(key: Any) -> str:
    """sha256 over the public key's PEM: what model-signing writes into a bundle as the hint."""
    return hashlib.sha256(_pem(key)).hexdigest()


def _lay_out(folder: Path, manifest: bytes) -> tuple[Path, Path]:
    """A folder that holds the manifest alone, and where its signature's file goes."""
    model = folder / "version"
    model.mkdir()
    (model / MANIFEST_FILE).write_bytes(manifest)
    return model, folder / "model.sig"


def _signed_files(bundle: str) -> list[tuple[str, str, str]]:
    """`(algorithm, digest, name)` of everything that a verified bundle's statement names."""
    payload = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))
    resources = payload["predicate"]["resources"]
    return [(each["algorithm"], each["digest"], each["name"]) for each in resources]


def _whole_files() -> Any:
    from model_signing import hashing

    config: Any = hashing.Config
    return config().use_file_serialization(hashing_algorithm="sha256")


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
