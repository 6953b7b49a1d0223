"""Keys, signatures, gates and the audit log, as people and as programs see them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from rootstock_registry import Registry
from rootstock_registry.blob_names import key_of

Command = Callable[..., CompletedProcess[str]]
DATASET = "sha256:" + "d" * 64


def parsed(ran: CompletedProcess[str]) -> Any:
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def asker(rootstock: Command, tiny: Path, tmp_path: Path, home: Path) -> Command:
    """`asker:1`, later measured: accuracy 0.8."""
    file = tmp_path / "asker.json"
    file.write_text('{"template": "Q: {input}"}')
    assert rootstock("import", file, "--as", "asker", "--base", tiny).returncode == 0
    registry = Registry(home)
    registry.evidence.evaluate("local", "asker:1", {"accuracy": 0.8}, DATASET)
    registry.close()
    return rootstock


def test_a_version_is_signed_verified_and_shown_so(asker: Command, tmp_path: Path) -> None:
    made = asker("generate-key-pair", "--out", tmp_path / "keys")
    assert made.returncode == 0 and "keep it secret" in made.stdout
    private, public = tmp_path / "keys" / "key.pem", tmp_path / "keys" / "pub.pem"
    again = asker("generate-key-pair", "--out", tmp_path / "keys")
    assert again.returncode == 1 and "exists already" in again.stderr

    unsigned = asker("verify", "asker:1", "--public-key", public)
    assert unsigned.returncode == 1 and "is not signed" in unsigned.stderr
    signed = parsed(asker("sign", "asker:1", "--key", private, "--json"))
    proven = parsed(asker("verify", "asker:1", "--public-key", public, "--json"))
    assert proven["key"] == signed["key"] and proven["digest"] == signed["digest"]
    assert "its bytes are those that were signed" in (
        asker("verify", "asker:1", "--public-key", public).stdout
    )
    assert f"signed    by key {signed['key']}" in asker("show", "asker:1").stdout
    wrong = asker("sign", "asker:1", "--key", public)
    assert wrong.returncode == 1 and "not a private key" in wrong.stderr


def test_verifying_reads_every_byte_again(
    rootstock: Command, peft_folder: Path, tiny: Path, tmp_path: Path, home: Path
) -> None:
    made = parsed(rootstock("import", peft_folder, "--as", "a", "--base", tiny, "--json"))
    assert rootstock("generate-key-pair", "--out", tmp_path).returncode == 0
    assert rootstock("sign", "a:1", "--key", tmp_path / "key.pem").returncode == 0
    digest = made["parts"][0]["blob"].removeprefix("sha256:")
    blob = home / "blobs" / "sha256" / digest[:2] / digest[2:]
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.chmod(0o600)
    blob.write_bytes(data)
    ran = rootstock("verify", "a:1", "--public-key", tmp_path / "pub.pem")
    assert ran.returncode == 1 and "no longer match its digest" in ran.stderr
    listed = parsed(rootstock("versions", "a", "--json"))["versions"]
    assert listed[0]["quarantined"] and "part 1 (lora): " in listed[0]["quarantine_reason"]
    assert "part 1 (lora): the bytes of blob" in rootstock("show", "a:1").stdout
    refused = rootstock("export", "a:1", "--target", "peft", "--out", tmp_path / "out")
    assert refused.returncode == 1 and "a:1 is quarantined since" in refused.stderr

    data[-1] ^= 1
    blob.write_bytes(data)
    assert "it is no longer quarantined" in rootstock("verify", "a:1").stdout
    assert parsed(rootstock("verify", "a:1", "--json"))["released"] is False
    assert "quarantine" not in rootstock("show", "a:1").stdout


def test_an_export_that_meets_damage_quarantines_the_version(
    rootstock: Command, peft_folder: Path, tiny: Path, tmp_path: Path, home: Path
) -> None:
    made = parsed(rootstock("import", peft_folder, "--as", "a", "--base", tiny, "--json"))
    blob = home / "blobs" / key_of(made["parts"][0]["blob"])
    blob.chmod(0o600)
    blob.write_bytes(blob.read_bytes()[:-1])
    ran = rootstock("export", "a:1", "--target", "peft", "--out", tmp_path / "out")
    assert ran.returncode == 1 and "is damaged" in ran.stderr
    [row, *_] = parsed(rootstock("audit", "--object", "a:1", "--json"))["rows"]
    assert row["action"] == "quarantine" and row["detail"]["damaged"][0]["what"] == "part 1 (lora)"


def test_a_promotion_under_gates_is_refused_with_the_figures(
    asker: Command, tmp_path: Path
) -> None:
    gates = ("--require", "accuracy>=0.9", "--require", "forgetting<=0.02")
    ran = asker("promote", "asker:1", "--to", "prod", *gates)
    assert ran.returncode == 1
    assert "need accuracy >= 0.9, have 0.8 (evaluated " in ran.stderr
    assert "need forgetting <= 0.02, but it has no forgetting" in ran.stderr
    assert parsed(asker("alias", "list", "--json"))["aliases"] == []
    half = asker("promote", "asker:1", "--to", "prod", "--require", "accuracy")
    assert half.returncode == 1 and "between quotes" in half.stderr
    alone = asker("promote", "asker:1", "--to", "prod", "--require", "signature")
    assert alone.returncode == 1 and "--public-key" in alone.stderr

    assert asker("generate-key-pair", "--out", tmp_path).returncode == 0
    demanded = (
        "promote", "asker:1", "--to", "prod", "--require", "accuracy>=0.7",
        "--require", "signature", "--public-key", tmp_path / "pub.pem", "--json",
    )  # fmt: skip
    assert "is not signed" in asker(*demanded).stderr
    assert asker("sign", "asker:1", "--key", tmp_path / "key.pem").returncode == 0
    assert parsed(asker(*demanded))["aliases"] == ["prod"]
    moved = parsed(asker("audit", "--object", "asker@prod", "--json"))["rows"][0]
    assert moved["detail"]["require"] == ["accuracy >= 0.7", "signature"]


def test_the_audit_log_is_listed_verified_and_broken_by_an_edit(asker: Command, home: Path) -> None:
    asker("tenant", "create", "acme")
    rows = parsed(asker("audit", "--json"))["rows"]
    assert [row["action"] for row in rows] == ["create tenant", "evaluate", "publish"]
    assert all(row["actor"].startswith("user:") for row in rows)
    only = parsed(asker("audit", "--tenant", "acme", "--json"))["rows"]
    assert [row["object"] for row in only] == ["acme"]
    page = asker("audit", "--limit", "2")
    assert "create tenant acme/acme" in page.stdout and "rootstock audit --after 2" in page.stdout

    head = parsed(asker("audit", "verify", "--json"))
    assert head == {"rows": 3, "head": rows[0]["hash"]}
    told = asker("audit", "verify").stdout
    assert head["head"] in told and "cut off at the end" in told
    assert asker("audit", "verify", "--head", head["head"]).returncode == 0
    lost = asker("audit", "verify", "--head", "0" * 63 + "1")
    assert lost.returncode == 1 and "is not in it" in lost.stderr

    database = sqlite3.connect(home / "registry.db")
    database.execute("UPDATE audit SET actor = 'user:nobody' WHERE seq = 2")
    database.commit()
    database.close()
    broken = asker("audit", "verify")
    assert broken.returncode == 1
    assert "row 2 (evaluate asker:1) was changed after it was written" in broken.stderr
