"""A signature is a key's word on every byte of one version, and on nothing else."""

from __future__ import annotations

import base64
import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry, errors
from rootstock_registry.gates import parse
from rootstock_registry.signing import PublicKey, new_key_pair, sign

MANIFEST = b'{"format":"rootstock.version/1"}'


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return new_key_pair(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return new_key_pair(tmp_path_factory.mktemp("others"))


@pytest.fixture
def filled(
    registry: Registry, card: BaseCard, head: Callable[[float], NewPart], lineage: Lineage
) -> Registry:
    for value in (1.0, 2.0):
        registry.publish("local", "triage", card, [head(value)], lineage=lineage)
    return registry


def test_a_signed_version_verifies_with_its_public_key_alone(
    filled: Registry, keys: tuple[Path, Path], others: tuple[Path, Path]
) -> None:
    made = filled.evidence.sign("local", "triage:1", keys[0])
    version = filled.resolve("local", "triage:1")
    key = PublicKey(keys[1])
    assert (made.digest, made.key_id) == (version.digest, key.id)
    assert filled.evidence.verify(version.digest, key).bundle == made.bundle
    with pytest.raises(errors.Untrusted, match="signed by other keys only"):
        filled.evidence.verify(version.digest, PublicKey(others[1]))
    with pytest.raises(errors.Untrusted, match="is not signed"):
        filled.evidence.verify(filled.resolve("local", "triage:2").digest, key)
    row = filled.evidence.audit(limit=1)[0]
    assert (row.action, row.object, row.detail["key"]) == ("sign", "triage:1", key.id)


def test_several_keys_may_sign_and_each_again(
    filled: Registry, keys: tuple[Path, Path], others: tuple[Path, Path]
) -> None:
    for private in (keys[0], others[0], keys[0]):
        filled.evidence.sign("local", "triage:1", private)
    digest = filled.resolve("local", "triage:1").digest
    assert len(filled.evidence.signatures(digest)) == 2
    for public in (keys[1], others[1]):
        assert filled.evidence.verify(digest, PublicKey(public))


def test_a_signature_of_another_version_proves_nothing(
    filled: Registry, keys: tuple[Path, Path]
) -> None:
    """As somebody with the database in hands would do it: one version's bundle under another's."""
    first = filled.evidence.sign("local", "triage:1", keys[0])
    key = PublicKey(keys[1])
    with pytest.raises(errors.Untrusted, match="does not fit"):
        key.verify(filled.blobs.get(filled.resolve("local", "triage:2").digest), first.bundle)


def test_what_is_signed_is_the_manifest_and_so_every_blob(
    filled: Registry, keys: tuple[Path, Path]
) -> None:
    bundle = json.loads(filled.evidence.sign("local", "triage:1", keys[0]).bundle)
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    (resource,) = statement["predicate"]["resources"]
    version = filled.resolve("local", "triage:1")
    assert (resource["name"], resource["algorithm"]) == ("manifest.json", "sha256")
    assert f"sha256:{resource['digest']}" == version.digest
    assert version.manifest.parts[0].blob in filled.blobs.get(version.digest).decode()


def test_the_librarys_own_verifier_accepts_what_we_sign(
    keys: tuple[Path, Path], tmp_path: Path
) -> None:
    from model_signing import verifying

    (tmp_path / "version").mkdir()
    (tmp_path / "version" / "manifest.json").write_bytes(MANIFEST)
    (tmp_path / "model.sig").write_text(sign(MANIFEST, keys[0])[1])
    verifier = verifying.Config().use_elliptic_key_verifier(public_key=keys[1])
    verifier.verify(tmp_path / "version", tmp_path / "model.sig")


@pytest.mark.parametrize("byte", ["sig", "payload", "hint", "hintless", "json", "empty", "type"])
def test_a_bundle_with_anything_changed_is_refused(keys: tuple[Path, Path], byte: str) -> None:
    bundle = json.loads(sign(MANIFEST, keys[0])[1])
    envelope, material = bundle["dsseEnvelope"], bundle["verificationMaterial"]
    if byte == "sig":
        raw = bytearray(base64.b64decode(envelope["signatures"][0]["sig"]))
        raw[-1] ^= 1
        envelope["signatures"][0]["sig"] = base64.b64encode(raw).decode()
    elif byte == "payload":
        statement = base64.b64decode(envelope["payload"]).replace(b"manifest", b"manifesT")
        envelope["payload"] = base64.b64encode(statement).decode()
    elif byte == "hint":
        material["publicKey"]["hint"] = "0" * 64
    elif byte == "hintless":
        del material["publicKey"]["hint"]
    elif byte == "type":
        bundle["mediaType"] = "application/json"
    text = {"json": "{", "empty": ""}.get(byte, json.dumps(bundle))
    with pytest.raises(errors.Untrusted):
        PublicKey(keys[1]).verify(MANIFEST, text)


def test_a_bundle_that_tells_the_verifier_to_ignore_the_manifest_is_refused(
    keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """By the right key, of an empty folder: the library takes it for any manifest."""
    from model_signing import hashing, signing

    (tmp_path / "version").mkdir()
    (tmp_path / "version" / "other").write_bytes(b"x")
    ignoring = hashing.Config().set_ignored_paths(paths=[tmp_path / "version" / "manifest.json"])
    signer = signing.Config().use_elliptic_key_signer(private_key=keys[0])
    signer.set_hashing_config(ignoring).sign(tmp_path / "version", tmp_path / "model.sig")
    with pytest.raises(errors.Untrusted):
        PublicKey(keys[1]).verify(MANIFEST, (tmp_path / "model.sig").read_text())


def test_a_new_key_is_private_and_never_overwritten(tmp_path: Path) -> None:
    private, public = new_key_pair(tmp_path / "keys")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    before = private.read_bytes()
    with pytest.raises(FileExistsError, match=r"key\.pem exists already"):
        new_key_pair(tmp_path / "keys")
    assert private.read_bytes() == before
    private.unlink()
    with pytest.raises(FileExistsError, match=r"pub\.pem exists already"):
        new_key_pair(tmp_path / "keys")
    assert not private.exists()
    assert PublicKey(public).id


def pem(key: object, password: bytes | None = None) -> bytes:
    hidden = (
        serialization.BestAvailableEncryption(password)
        if password
        else serialization.NoEncryption()
    )
    data: bytes = key.private_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden
    )
    return data


BAD_KEYS = {
    "rsa": (pem(rsa.generate_private_key(65537, 2048)), "another kind"),
    "ed25519": (pem(ed25519.Ed25519PrivateKey.generate()), "another kind"),
    "curve": (pem(ec.generate_private_key(ec.SECP256K1())), "another kind"),
    "encrypted": (pem(ec.generate_private_key(ec.SECP256R1()), b"x"), "is encrypted"),
    "text": (b"hello", "not a private key"),
    "empty": (b"", "not a private key"),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_key_that_cannot_sign_is_refused_in_words(tmp_path: Path, name: str) -> None:
    data, words = BAD_KEYS[name]
    (tmp_path / "key.pem").write_bytes(data)
    with pytest.raises(errors.InvalidKey, match=words):
        sign(MANIFEST, tmp_path / "key.pem")


def test_a_missing_key_and_a_private_one_in_the_publics_place_are_refused(
    keys: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(errors.InvalidKey, match="cannot be read"):
        PublicKey(tmp_path / "nowhere.pem")
    with pytest.raises(errors.InvalidKey, match="not a public key"):
        PublicKey(keys[0])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_key_that_openssl_made_signs(tmp_path: Path) -> None:
    commands = [
        "openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
        "openssl ec -in key.pem -pubout -out pub.pem",
    ]
    for command in commands:
        subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    key_id, bundle = sign(MANIFEST, tmp_path / "key.pem")
    key = PublicKey(tmp_path / "pub.pem")
    key.verify(MANIFEST, bundle)
    assert key.id == key_id


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_a_curve_that_only_openssl_knows_is_a_key_of_another_kind(tmp_path: Path) -> None:
    for command in (
        "openssl ecparam -name sm2 -genkey -noout -out key.pem",
        "openssl pkey -in key.pem -pubout -out pub.pem",
    ):
        if subprocess.run(command.split(), cwd=tmp_path, capture_output=True).returncode:
            pytest.skip("this openssl does not know the curve")
    with pytest.raises(errors.InvalidKey, match="another kind"):
        sign(MANIFEST, tmp_path / "key.pem")
    with pytest.raises(errors.InvalidKey, match="another kind"):
        PublicKey(tmp_path / "pub.pem")


def test_a_promotion_can_demand_a_signature(
    filled: Registry, keys: tuple[Path, Path], others: tuple[Path, Path]
) -> None:
    demanded, key = parse(["signature"]), PublicKey(keys[1])
    with pytest.raises(errors.InvalidArtifact, match="say whose"):
        filled.promote("local", "triage:1", "prod", gates=demanded)
    with pytest.raises(errors.GateNotMet, match=r"by pub\.pem, but .* is not signed"):
        filled.promote("local", "triage:1", "prod", gates=demanded, key=key)
    filled.evidence.sign("local", "triage:1", others[0])
    with pytest.raises(errors.GateNotMet, match="other keys only"):
        filled.promote("local", "triage:1", "prod", gates=demanded, key=key)
    filled.evidence.sign("local", "triage:1", keys[0])
    assert filled.promote("local", "triage:1", "prod", gates=demanded, key=key).aliases == ("prod",)


def test_the_registry_opens_without_the_signing_library(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from rootstock_registry import Registry\n"
        "registry = Registry(Path(sys.argv[1])); registry.evidence.verify_audit()\n"
        "print([m for m in ('model_signing', 'cryptography', 'sigstore') if m in sys.modules])"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    assert subprocess.check_output(command, text=True).strip() == "[]"
