"""Damage at rest: every kind is found, marked, audited once and refused; others are served."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.kinds import parse_spec
from rootstock_adapters.prompt.spec import NO_TENSORS
from rootstock_registry import Lineage, NewPart, Registry, Version, errors
from rootstock_registry.blob_names import key_of
from rootstock_registry.last_said import LastSaid
from rootstock_registry.model import versions
from safetensors.numpy import save
from sqlalchemy import update

MODULE = "layers.0.self_attn.o_proj"
CARD = BaseCard(
    name="tiny",
    fingerprint="sha256:" + "1" * 64,
    model_type="llama",
    task="generate",
    hidden_size=8,
    layers=1,
    vocab_size=32,
    context_length=16,
    pooling="last",
    normalize=True,
    linears={MODULE: (8, 8)},
    parameters={f"{MODULE}.weight": (8, 8), "norm.weight": (8,)},
)
PARTS = {
    "lora": {"r": 2, "lora_alpha": 4, "target_modules": [MODULE]},
    "ia3": {"target_modules": [MODULE]},
    "bottleneck": {
        "placement": "houlsby", "size": 2, "nonlinearity": "relu", "target_modules": [MODULE]
    },
    "delta": {"scope": "norms", "parameters": ["norm.weight"]},
    "head": {"pooling": "mean", "normalize": True, "labels": ["no", "yes"]},
    "soft_prompt": {"method": "prompt_tuning", "num_virtual_tokens": 2},
    "prompt": {"template": "Q: {input}"},
}  # fmt: skip
PLACES = {"first": 0.0, "middle": 0.5, "last": 1.0}


def part(kind: str, value: float) -> NewPart:
    spec = parse_spec(kind, PARTS[kind])
    shapes = spec.tensor_shapes(CARD)
    tensors = {name: np.full(shape, value, np.float32) for name, shape in shapes.items()}
    return NewPart(spec, save(tensors) if tensors else NO_TENSORS)


def published(registry: Registry, name: str, *parts: NewPart, tenant: str = "local") -> Version:
    lineage = Lineage(method="test")
    return registry.publish(tenant, name, CARD, parts, lineage=lineage, promote="prod")


def file_of(home: Path, digest: str) -> Path:
    return home / "blobs" / key_of(digest)


def write(file: Path, data: bytes) -> None:
    file.chmod(0o644)
    file.write_bytes(data)


def flip(file: Path, place: float = 0.5) -> None:
    data = bytearray(file.read_bytes())
    data[round(place * (len(data) - 1))] ^= 1
    write(file, bytes(data))


def harm(file: Path, other: Path, how: str) -> None:
    """`how`: the place of a flipped bit, or what else a disk or a hand may do."""
    data = file.read_bytes()
    if how in PLACES:
        flip(file, PLACES[how])
    elif how == "removed":
        file.unlink()
    elif how == "swapped":
        write(file, other.read_bytes())
        write(other, data)
    else:
        write(file, data[: len(data) // 2] if how == "cut" else b"")


def actions(registry: Registry, name: str, tenant: str = "local") -> list[str]:
    """What the audit log tells of the adapter's versions, oldest first."""
    rows = registry.evidence.audit(tenant=tenant, object=name)
    return [row.action for row in reversed(rows) if "alias" not in row.action]


def refused(registry: Registry, name: str) -> str:
    """The words in which every reference to it is refused, which are the same."""
    words = set()
    for ref in (name, f"{name}:1", f"{name}@prod"):
        with pytest.raises(errors.Quarantined) as caught:
            registry.resolve("local", ref)
        words.add(caught.value.message)
    [said] = words
    return said


def assert_served(registry: Registry, version: Version) -> None:
    assert registry.resolve("local", version.name) == version
    for each in version.manifest.parts:
        assert len(registry.blobs.get(each.blob)) == each.size


HARMS = [*PLACES, "cut", "emptied", "removed", "swapped"]
# Every harm of a manifest and of two kinds' bytes; of the other kinds', every second one in turn.
DAMAGES = [(artifact, how) for artifact in ("manifest", "lora", "head") for how in HARMS] + [
    (kind, how)
    for turn, kind in enumerate(kind for kind in PARTS if kind not in ("lora", "head"))
    for place, how in enumerate(HARMS)
    if (turn + place) % 2 == 0
]


@pytest.mark.parametrize(("artifact", "how"), DAMAGES)
def test_a_damaged_blob_is_found_marked_once_and_repaired_by_publishing(
    registry: Registry, opened: Callable[[], Registry], home: Path, artifact: str, how: str
) -> None:
    made = part("lora" if artifact == "manifest" else artifact, 1.0)
    hurt, other = published(registry, "hurt", made), published(registry, "other", part("head", 2.0))
    blob = hurt.manifest.parts[0].blob
    first, second = (hurt.digest, blob) if artifact == "manifest" else (blob, hurt.digest)
    harm(file_of(home, first), file_of(home, second), how)

    found = opened().inspect("local", "hurt")
    assert found.damage is not None and found.quarantined == 1
    seen = hurt.digest if how == "swapped" else first  # nothing behind a manifest can be named
    what = "manifest" if seen == hurt.digest else f"part 1 ({artifact})"
    assert found.damage.startswith(f"{what}: ") and seen in found.damage
    for each in (registry, opened()):  # who has resolved it before is told, too
        said = refused(each, "hurt")
        assert said.startswith("hurt:1 is quarantined since ") and found.damage in said
        assert "Publish or import" in said and "rootstock verify hurt:1" in said
        assert_served(each, other)
    assert registry.inspect("local", "hurt").quarantined == 0
    assert registry.inspect("local", "other").damage is None
    assert actions(registry, "hurt") == ["publish", "quarantine"]
    [row, *_] = registry.evidence.audit(object="hurt")
    [told] = row.detail["damaged"]
    assert (told["what"], told["file"]) == (what, key_of(seen))

    assert published(registry, "hurt", made) == hurt
    assert_served(opened(), hurt)
    assert actions(registry, "hurt") == ["publish", "quarantine", "release"]
    registry.evidence.verify_audit()


@pytest.mark.parametrize("names", ["nothing", "no digest", "a part", "another's content"])
def test_a_digest_edited_in_the_database_never_leads_to_other_content(
    registry: Registry, opened: Callable[[], Registry], names: str
) -> None:
    hurt, other = (published(registry, n, part("head", v)) for n, v in (("hurt", 1), ("other", 2)))
    digest = {
        "nothing": "sha256:" + "7" * 64,
        "no digest": "sha256:triage",
        "a part": hurt.manifest.parts[0].blob,
        "another's content": other.digest,
    }[names]

    def edit(digest: str) -> None:
        with registry._database.writes.begin() as connection:
            mine = versions.c.name == "hurt"
            connection.execute(update(versions).where(mine).values(digest=digest))

    edit(digest)
    for ref in ("hurt", "hurt:1"):
        with pytest.raises(errors.CorruptBlob, match=f"but {hurt.digest} was published"):
            opened().resolve("local", ref)
    assert registry.inspect("local", "hurt").quarantined == 1
    assert digest in refused(registry, "hurt")
    assert_served(registry, other)
    published(registry, "other", part("head", 2))  # is no repair of the row
    assert digest in refused(opened(), "hurt")
    edit(hurt.digest)
    assert registry.inspect("local", "hurt").released == 1
    assert_served(opened(), hurt)
    assert actions(registry, "hurt") == ["publish", "quarantine", "release"]


def test_a_mark_is_of_the_content_and_every_name_of_it_is_told(
    registry: Registry, home: Path
) -> None:
    registry.create_tenant("acme")
    version = published(registry, "hurt", part("head", 1))
    published(registry, "same", part("head", 1), tenant="acme")
    before = registry.follow().seq
    file = file_of(home, version.manifest.parts[0].blob)
    flip(file)
    assert registry.inspect("acme", "same:1").quarantined == 2
    with pytest.raises(errors.Quarantined, match="same:1 is quarantined"):
        registry.resolve("acme", "same")
    assert "hurt:1" in refused(registry, "hurt")
    changed = [(each.tenant, each.kind, each.name) for each in registry.changes(before)]
    assert changed == [("local", "version", "hurt:1"), ("acme", "version", "same:1")]
    assert actions(registry, "same", "acme") == ["publish", "quarantine"]
    flip(file)  # brought back by hand
    assert refused(registry, "hurt")  # nobody has looked yet
    assert registry.inspect("local", "hurt").released == 2
    assert registry.resolve("acme", "same").digest == version.digest


def test_several_damaged_parts_are_one_mark_that_names_them(registry: Registry, home: Path) -> None:
    version = published(registry, "hurt", part("lora", 1), part("head", 1), part("prompt", 1))
    for each in version.manifest.parts[:2]:
        flip(file_of(home, each.blob))
    damage = registry.inspect("local", "hurt").damage or ""
    assert "part 1 (lora): " in damage and "; part 2 (head): " in damage and "3" not in damage[:6]
    assert actions(registry, "hurt") == ["publish", "quarantine"]


def test_what_cannot_be_read_twice_the_same_way_marks_nothing(
    registry: Registry, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = published(registry, "hurt", part("head", 1))
    shelf = registry.blobs._shelf
    read, left = shelf.read, [1]

    def once_wrong(digest: str) -> bytes:
        data = read(digest)
        if digest == version.manifest.parts[0].blob and left:
            left.clear()
            return data[:-1]
        return data

    monkeypatch.setattr(shelf, "read", once_wrong)
    assert registry.inspect("local", "hurt").damage is None
    assert not left

    def away(digest: str) -> bytes:
        raise errors.Unavailable("timed out")

    monkeypatch.setattr(shelf, "read", away)
    with pytest.raises(errors.Unavailable):
        registry.inspect("local", "hurt")
    assert_rows_unmarked(registry)


def assert_rows_unmarked(registry: Registry) -> None:
    [listed] = registry.version_page("local", "hurt").data
    assert listed.quarantined_at is None and actions(registry, "hurt") == ["publish"]


def test_lists_show_it_aliases_pass_it_over_and_its_other_life_goes_on(
    registry: Registry, home: Path
) -> None:
    published(registry, "hurt", part("head", 1))
    second = published(registry, "hurt", part("head", 2))
    flip(file_of(home, second.manifest.parts[0].blob))
    registry.inspect("local", "hurt:2")
    newest, oldest = registry.version_page("local", "hurt").data
    assert newest.quarantined_at and "part 1 (head)" in (newest.quarantine_reason or "")
    assert oldest.quarantined_at is None
    shown = registry.look_at("local", "hurt:2")
    assert shown.quarantine_reason == newest.quarantine_reason
    with pytest.raises(errors.Quarantined):
        registry.promote("local", "hurt:2", "next")
    assert registry.yank("local", "hurt:2", "lost").yank_reason == "lost"
    assert registry.unyank("local", "hurt:2").quarantined_at == newest.quarantined_at
    assert registry.gc(grace_s=0).swept == 0  # its rows still name its blobs
    assert registry.rollback("local", "hurt", "prod") == registry.resolve("local", "hurt:1")
    registry.delete_version("local", "hurt:2")
    assert published(registry, "hurt", part("head", 2)).quarantined_at is None


def test_a_damaged_manifest_is_not_shown_but_said(
    registry: Registry, opened: Callable[[], Registry], home: Path
) -> None:
    version = published(registry, "hurt", part("head", 1))
    flip(file_of(home, version.digest))
    registry.inspect("local", "hurt")
    with pytest.raises(errors.Quarantined, match="manifest: the bytes of blob"):
        opened().look_at("local", "hurt")


def test_what_was_said_before_a_mark_is_not_repeated_while_the_database_is_away() -> None:
    said = LastSaid()

    def fail(error: errors.RegistryError) -> str:
        raise error

    assert said.or_now(("version",), lambda: "hurt:1") == "hurt:1"
    assert said.or_now(("version",), lambda: fail(errors.Unavailable("away"))) == "hurt:1"
    for error in (errors.Quarantined("damaged"), errors.Unavailable("away")):
        with pytest.raises(type(error)):
            said.or_now(("version",), lambda error=error: fail(error))  # type: ignore[misc]
